#pragma once
// The system calls that programs in a sandbox are refused: those that reach into other processes, change mounts or namespaces, load code into the
// kernel, or belong to parts of it in which faults are found often.

#include <linux/filter.h>

#include <vector>

namespace overproof {

/// A filter for SECCOMP_SET_MODE_FILTER: those calls fail with EPERM, calls of another architecture end the process. Empty where the
/// architecture of this build is not known to it.
std::vector<sock_filter> seccomp_filter();

}  // namespace overproof
