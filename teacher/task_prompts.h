#pragma once
// The prompts of tasks (verify/task.h), as a model reads them, and the records of their completions.

#include <set>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "data/tokenizer.h"
#include "teacher/document_writer.h"
#include "verify/task.h"

namespace overproof {

class TaskPrompts {
 public:
  /// Prompts are a user's message, rendered by the template in `model`; `plain`: they are texts to continue, and so are prompts for a model without
  /// a template. `examples`: with those of the tasks before them, as a sampled model reads them; a student that learns to do without does not. Throws
  /// FormatError, MismatchError for conversations where there is no template or `plain` is set.
  TaskPrompts(const fs::path& file, int64_t per_task, bool plain, const fs::path& model, const Tokenizer& tokenizer, bool examples = true,
              TaskUse use = TaskUse::verified);

  bool plain() const { return plain_; }  ///< prompts are texts to continue
  int64_t tasks() const { return int64_t(tasks_.size()); }
  int64_t per_task() const { return per_task_; }
  int64_t count() const { return tasks() * per_task_; }
  /// Completion i is of task i / per_task.
  const Opening& opening(int64_t i) const { return openings_[size_t(i / per_task_)]; }
  const Task& task(int64_t i) const { return tasks_[size_t(i / per_task_)]; }
  /// Ids that end a turn of the template.
  const std::set<int32_t>& ends() const { return ends_; }
  /// The members of a corpus's record: a conversation whose last message is `completion` and alone is trained, or prompt and completion.
  Json record(int64_t i, const std::string& completion) const;

 private:
  std::vector<Task> tasks_;
  int64_t per_task_;
  bool plain_;
  std::vector<Opening> openings_;
  std::set<int32_t> ends_;
};

}  // namespace overproof
