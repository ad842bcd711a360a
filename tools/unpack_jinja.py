#!/usr/bin/env python3
"""Takes llama.cpp's Jinja engine and its collection of chat templates out of llama-cpp-python's source distribution.

    tools/unpack_jinja.py ARCHIVE FOLDER

FOLDER/jinja, unicode.*: the engine's sources; FOLDER/templates: the templates of real models, which tests render; FOLDER/LICENSE.
A few lines of the engine are replaced, where it differs from Python's Jinja. Each must occur as often as this file says.
"""
import pathlib
import shutil
import sys
import tarfile

ENGINE = ["jinja/" + name for name in ("lexer.cpp", "lexer.h", "parser.cpp", "parser.h", "runtime.cpp", "runtime.h", "string.cpp", "string.h",
                                       "utils.h", "value.cpp", "value.h")] + ["unicode.cpp", "unicode.h"]
# file, text, replacement, how often
CHANGES = [
    # Python writes a float with as many digits as it takes to read it back: 3.14159265, 1.0, 1e-05.
    ("jinja/value.cpp", "oss << val->as_float();", "oss << overproof_python_float(val->as_float());", 1),
    ("jinja/value.h", "std::string out = std::to_string(val_flt);\n"
                      "        out.erase(out.find_last_not_of('0') + 1, std::string::npos); // remove trailing zeros\n"
                      "        if (out.back() == '.') out.push_back('0'); // leave one zero if no decimals\n"
                      "        return out;",
     "return overproof_python_float(val_flt);", 1),
    # JSON of the conversation is of the conversation: a marker that is spelled out in it stays text.
    ("jinja/value.cpp", "return mk_val<value_string>(json_str);",
     "auto json_text = mk_val<value_string>(json_str);\n    json_text->mark_input();\n    return json_text;", 1),
]


def main(archive, folder):
    work = folder.with_name(folder.name + ".new")
    shutil.rmtree(work, ignore_errors=True)
    (work / "jinja").mkdir(parents=True)
    (work / "templates").mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/vendor/llama.cpp/")[2]
            name = path.removeprefix("common/").removeprefix("models/")
            wanted = path in {"common/" + file for file in ENGINE} or path == "LICENSE" or (
                path.startswith("models/templates/") and path.endswith(".jinja") and path.count("/") == 2)
            if wanted and member.isfile():
                (work / name).write_bytes(tar.extractfile(member).read())
    for name in [*ENGINE, "LICENSE"]:
        if not (work / name).is_file():
            sys.exit(f"{archive}: has no {name}; the pinned version in tools/requirements-jinja.txt had it")
    for name, old, new, count in CHANGES:
        text = (work / name).read_text(encoding="utf-8")
        if text.count(old) != count:
            sys.exit(f"{archive}: {name} does not have the lines that {pathlib.Path(__file__).name} replaces: {old[:60]!r}")
        (work / name).write_text(text.replace(old, new), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


if len(sys.argv) != 3:
    sys.exit(__doc__)
main(sys.argv[1], pathlib.Path(sys.argv[2]))
