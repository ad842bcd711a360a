#pragma once
// Put before every source of the Jinja engine; tools/unpack_jinja.py puts the calls in.

#include <string>
#include <typeinfo>

/// As Python's repr().
std::string overproof_python_float(double value);
