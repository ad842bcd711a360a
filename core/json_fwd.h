#pragma once
#include <nlohmann/json_fwd.hpp>
namespace overproof {
using Json = nlohmann::json;
}
