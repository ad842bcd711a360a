#!/usr/bin/env python3
"""Checks the rules of docs/architecture.md: a folder includes only lower layers, libtorch is used only in the folders that may
use it, raw data pointers of tensors only in *_cpu.cc, files are not too long, no two types have the same name.

Prints one line for each violation and ends with 1 if there is any. The current directory does not matter: tools/check_layers.py
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A folder may include itself and folders of a lower level; siblings never include each other.
LEVEL = {
    "core": 1,
    "formats": 2, "provenance": 2,
    "data": 3, "records": 3,
    "model": 4, "evidence": 4, "verify": 4,
    "teacher": 5, "student": 5, "remote": 5,
    "distill": 6, "prune": 6, "quantize": 6, "evaluate": 6, "audit": 6,
    "report": 7,
    "pipeline": 8,
    "cli": 9,
}
WITH_TORCH = {"model", "teacher", "student", "distill", "evaluate"}
LONGEST = 700
# A pointer into a tensor is valid on the CPU only, so the files that may take one are named *_cpu.cc; others use model/host_values.h.
RAW_POINTER = re.compile(r"\b(?:const_|mutable_)?data_ptr\b|\b(?:packed_)?accessor(?:32|64)?\s*<")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TYPE = re.compile(r"^(?:class|struct|union|enum(?: class| struct)?)\s+(\w+)\b(?!::)[^;]*$")
ALIAS = re.compile(r"^using\s+(\w+)\s*=")


def types(file):
    """The types that a file defines in the namespace overproof, outside anonymous namespaces: (line, name, text). Relies on the
    formatter's layout."""
    private = False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("namespace {"):
            private = True
        elif line == "}  // namespace":
            private = False
        elif not private and (match := TYPE.match(line) or ALIAS.match(line)):
            yield number, match[1], line


def twins():
    """Two types of the same name are one type to the linker, which uses the functions of either for both without a message. An
    alias may be repeated in the same words."""
    first = {}
    for folder in LEVEL:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix not in {".h", ".cc", ".cu", ".cuh"}:
                continue
            for number, name, text in types(file):
                where = f"{file.relative_to(ROOT)}:{number}"
                other, said = first.setdefault(name, (where, text))
                if other != where and not (ALIAS.match(text) and text.split(";")[0] == said.split(";")[0]):
                    yield f"{where}: the type {name} is also defined at {other}"


def faults():
    for folder, level in LEVEL.items():
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix not in {".h", ".cc", ".cu", ".cuh"}:
                continue
            name = file.relative_to(ROOT)
            pointers = folder in WITH_TORCH | {"pipeline"} and not file.name.endswith("_cpu.cc")
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                if pointers and RAW_POINTER.search(line.split("//")[0]):
                    yield f"{name}:{number}: a raw pointer into a tensor belongs in a *_cpu.cc; or use model/host_values.h"
                match = INCLUDE.match(line)
                if not match:
                    continue
                target = match[2]
                top = target.split("/")[0]
                if match[1] == '"' and top not in LEVEL:
                    yield f'{name}:{number}: "{target}" is not a path from the top level of the project'
                elif match[1] == '"' and top != folder and LEVEL[top] >= level:
                    yield f"{name}:{number}: {folder}/ (layer {level}) must not include {top}/ (layer {LEVEL[top]})"
                elif top in {"ATen", "torch", "c10"} and folder not in WITH_TORCH and not file.stem.endswith("_torch"):
                    yield f"{name}:{number}: {folder}/ must not use libtorch"
    ours = [file for folder in [*LEVEL, "tests", "tools", "cmake", "benchmarks", "fuzz"] for file in (ROOT / folder).rglob("*")]
    for file in sorted(ours):
        if file.suffix not in {".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".cmake"}:
            continue
        lines = len(file.read_text(encoding="utf-8", errors="replace").splitlines())
        if lines > LONGEST:
            yield f"{file.relative_to(ROOT)}: {lines} lines, {LONGEST} at most"


found = [*faults(), *twins()]
print("\n".join(found) if found else "layers hold: includes, libtorch, data pointers, file lengths and type names follow the rules")
sys.exit(1 if found else 0)
