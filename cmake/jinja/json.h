#pragma once
// The JSON type that the Jinja engine asks for by this name: objects keep the order of their keys, as in Python.

#include <nlohmann/json.hpp>

using common_json = nlohmann::ordered_json;
