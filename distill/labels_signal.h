#pragma once
// No teacher: rows that name no id, for losses of labels alone.

#include <cstdint>
#include <memory>

#include "teacher/signal.h"

namespace overproof {

std::unique_ptr<TeacherSignal> labels_signal(int64_t vocab);

}  // namespace overproof
