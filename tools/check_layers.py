#!/usr/bin/env python3
"""Holds the house to its plan: includes only point down, files stay short, libtorch stays where it may be, no two types share a name.

Prints one line a fault and ends with 1 if there is any. Run it anywhere: tools/check_layers.py
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
    "model": 4, "evidence": 4,
    "teacher": 5, "student": 5,
    "distill": 6, "prune": 6, "quantize": 6, "evaluate": 6, "audit": 6,
    "report": 7,
    "pipeline": 8,
    "cli": 9,
}
WITH_TORCH = {"model", "teacher", "student", "distill", "evaluate"}
LONGEST = 700
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TYPE = re.compile(r"^(?:class|struct|union|enum(?: class| struct)?)\s+(\w+)\b(?!::)[^;]*$")
ALIAS = re.compile(r"^using\s+(\w+)\s*=")


def types(file):
    """The types of the namespace overproof that a file defines for the whole program: (line, name, text). Layout decides, as the formatter keeps it."""
    private = False
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("namespace {"):
            private = True
        elif line == "}  // namespace":
            private = False
        elif not private and (match := TYPE.match(line) or ALIAS.match(line)):
            yield number, match[1], line


def twins():
    """Two types of one name are one type to the linker, which takes either's functions for both and says nothing. An alias may be
    said twice, in the same words; another meaning would wait for the first unit that includes both headers."""
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
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
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
                    yield f"{name}:{number}: {folder}/ does not know libtorch"
    ours = [file for folder in [*LEVEL, "tests", "tools", "cmake", "benchmarks", "fuzz"] for file in (ROOT / folder).rglob("*")]
    for file in sorted(ours):
        if file.suffix not in {".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".cmake"}:
            continue
        lines = len(file.read_text(encoding="utf-8", errors="replace").splitlines())
        if lines > LONGEST:
            yield f"{file.relative_to(ROOT)}: {lines} lines, {LONGEST} at most"


found = [*faults(), *twins()]
print("\n".join(found) if found else "the house stands: includes follow the layers, no file is too long")
sys.exit(1 if found else 0)
