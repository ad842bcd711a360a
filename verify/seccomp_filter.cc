#include "verify/seccomp_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace overproof {

std::vector<sock_filter> seccomp_filter() {
#if defined(__x86_64__)
  constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
  constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
  return {};
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  static constexpr uint32_t kRefused[] = {
      SYS_ptrace,       SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,          SYS_pidfd_getfd,   SYS_mount,        SYS_umount2,
      SYS_pivot_root,   SYS_chroot,           SYS_move_mount,        SYS_open_tree,     SYS_fsopen,        SYS_fsconfig,     SYS_fsmount,
      SYS_fspick,       SYS_mount_setattr,    SYS_unshare,           SYS_setns,         SYS_keyctl,        SYS_add_key,      SYS_request_key,
      SYS_bpf,          SYS_perf_event_open,  SYS_userfaultfd,       SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
      SYS_kexec_load,   SYS_kexec_file_load,  SYS_init_module,       SYS_finit_module,  SYS_delete_module, SYS_reboot,       SYS_swapon,
      SYS_swapoff,      SYS_acct,             SYS_quotactl,          SYS_syslog,        SYS_settimeofday,  SYS_clock_settime, SYS_adjtimex,
      SYS_clock_adjtime, SYS_sethostname,     SYS_setdomainname,     SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_fanotify_init,
      SYS_personality,  SYS_nfsservctl,       SYS_lookup_dcookie};
  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
  };
  const sock_filter refuse = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
#if defined(__x86_64__)
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1));  // numbers of x32
  filter.push_back(refuse);
#endif
  for (const uint32_t call : kRefused) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
    filter.push_back(refuse);
  }
  // Sockets of other families than these have no use without a network, and faults in the kernel.
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 5));
  filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)));
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 3, 0));
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0));
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 1, 0));
  filter.push_back(refuse);
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return filter;
#endif
}

}  // namespace overproof
