// The program that users start. Loading libtorch costs ten times what most commands take, and 120 MB, so it is not linked here:
// the functions that need it go on in the program `overproof-torch` beside this one, with the same command line. What is known
// to end there goes at once; anything else when it comes to such a function, which redoes no more than checking the inputs.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "cli/program.h"
#include "core/answer.h"
#include "core/error.h"
#include "core/stage.h"
#include "pipeline/quantize_checked.h"

namespace overproof {

using TextSink = std::function<void(std::string_view)>;

// Names suffice: their headers would bring libtorch's, and a signature that differs does not link.
struct TinyTeacherConfig;
struct TeachConfig;
struct ObserveConfig;
struct StudentConfig;
struct DistillConfig;
struct CalibrateConfig;
struct ActivationsConfig;
struct EvaluateConfig;
struct CheckRowsConfig;
struct GenerateConfig;
struct LogitsConfig;
struct SampleConfig;
struct CompareConfig;
struct ReplayConfig;

namespace {

char** g_arguments = nullptr;

[[noreturn]] void go_on_with_torch() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "overproof-torch";
  std::fflush(stdout);
  ::setenv("OMP_WAIT_POLICY", "passive", 0);  // as ensure_passive_waiting() would, which then need not start the program twice
  ::execv(program.c_str(), g_arguments);
  throw IoError(program, "cannot be started; it belongs beside overproof", errno);
}

/// The verb is the first word that is no option; one that asks for help needs no libtorch.
bool surely_needs_torch(const std::vector<std::string>& words) {
  static const std::vector<std::string> verbs = {"run",       "tiny-teacher", "teach",    "observe",  "student", "distill",
                                                 "calibrate", "activations",  "evaluate", "generate", "logits",  "sample"};
  const auto verb = std::find_if(words.begin(), words.end(), [](const std::string& w) { return !w.starts_with('-'); });
  const bool help = std::count(words.begin(), words.end(), "--help") + std::count(words.begin(), words.end(), "-h") > 0;
  if (verb == words.end() || help) return false;
  // Most of what is made again needs it, and to find that out in the middle would leave half of the work behind.
  if (*verb == "audit" && verb + 1 != words.end() && *(verb + 1) == "recompute") return true;
  // A stage that goes on elsewhere in its middle would ask for the key's passphrase twice, and tell a lineage server twice that
  // it begins.
  if (*verb == "quantize")
    return std::any_of(words.begin(), words.end(), [](const std::string& w) {
      return w.starts_with("--evaluate") || w.starts_with("--max-kl") || w.starts_with("--kl-budget");
    });
  return std::count(verbs.begin(), verbs.end(), *verb) > 0;
}

}  // namespace

StageReport run_tiny_teacher(const TinyTeacherConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_teach(const TeachConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_sample(const SampleConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_observe(const ObserveConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_student(const StudentConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_distill(const DistillConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_calibrate(const CalibrateConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_activations(const ActivationsConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
StageReport run_quantize_checked(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  if (config.measures()) go_on_with_torch();
  return run_quantize(config.quantize, inputs, outputs);
}
StageReport run_evaluate(const EvaluateConfig&, const Inputs&, Outputs&) { go_on_with_torch(); }
Answer audit_rows(const CheckRowsConfig&, const fs::path&) { go_on_with_torch(); }
Answer audit_replay(const ReplayConfig&, const fs::path&) { go_on_with_torch(); }
Answer run_generate(const GenerateConfig&, const fs::path&, const TextSink&) { go_on_with_torch(); }
int64_t run_logits(const LogitsConfig&, const fs::path&) { go_on_with_torch(); }
int audit_compare(const CompareConfig&, const fs::path&, const fs::path&, bool, std::ostream&) { go_on_with_torch(); }

}  // namespace overproof

int main(int argc, char** argv) {
  overproof::g_arguments = argv;
  const std::vector<std::string> words(argv + 1, argv + argc);
  try {
    if (overproof::surely_needs_torch(words)) overproof::go_on_with_torch();
  } catch (const overproof::Error& e) {
    std::fprintf(stderr, "overproof: %s\n", e.what());
    return e.exit_code();
  }
  return overproof::run_program(words);
}
