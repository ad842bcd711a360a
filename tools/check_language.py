#!/usr/bin/env python3
"""Lists words that the project does not use in comments, messages, help texts and docs, with what to write instead.

    tools/check_language.py [PATH...]     files or folders; default: all sources and docs

The reader is an engineer who knows the field and reads English as a second language: subject, verb, object; the field's own
term; one name for one thing; no metaphor, no personification. Prints one line a finding and ends with 1 if there is any.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = {".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".cmake", ".md", ".txt", ".ini"}
SKIPPED = {"build", ".cache", ".git", "runs", "golden", "texts", "__pycache__"}

# Pattern -> what to write instead.
INSTEAD = {
    r"stands?|stood|standing": "is, is stored, is located",
    r"whoever|whomever": "any process that, any reader who",
    r"nobody|no one": "no process, no reader, none",
    r"somebody|someone|anybody|anyone|everybody": "another process, any verifier, a named role",
    r"go(?:es)? on|going on|went on": "continue, resume",
    r"beside|besides": "next to, in addition to",
    r"apart by commas": "comma-separated",
    r"says?|said|speaks?|spoke|tells?|told|asks?(?: for)?(?= one another)": "states, contains, prints, records, requires",
    r"wants?|wanted|wishes": "needs, requires, expects",
    r"in the place of": "instead of, replaces",
    r"by itself": "alone, without",
    r"has it that": "states that",
    r"make(?:s)? good": "compensate",
    r"lets? it go|hold(?:s)? (?:it )?back": "allowed, blocked",
    r"half-written|amiss": "partial, wrong",
    r"in vain|for ever|at hand|at will|by chance": "(a plain word)",
    r"glance|behold|dealt out|deals? .* out": "(a plain word)",
    r"edge": "lineage kind",
}
# Uses that are the field's own terms, or another language's.
ALLOWED = re.compile(
    r"(?i)You Want To Public License|standard|understand|standalone|stand-alone|SNI|edge ?cases?|knowledge|ledger|acknowledg|leading edge|hedge|"
    r"std::|#include|edge_|_edge|edges? of (?:a|the) (?:graph|tile|interval|tree)|told apart"
)
PATTERN = re.compile("|".join(rf"(?P<w{i}>\b(?:{p})\b)" for i, p in enumerate(INSTEAD)), re.IGNORECASE)
ADVICE = list(INSTEAD.values())
CODE = {".h", ".cc", ".cu", ".cuh"}
PROSE = re.compile(r"//.*|\"(?:[^\"\\]|\\.)*\"")


def prose(path, line):
    """The part of a line that people read: all of a text file; comments and string literals of code."""
    if path.suffix in {".md", ".txt"}:
        return line
    if path.suffix in CODE:
        return " ".join(PROSE.findall(line))
    if path.suffix in {".py", ".sh", ".cmake", ".ini"}:
        return " ".join(re.findall(r"#.*|\"\"\".*|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", line))
    return line


def files(arguments):
    for argument in arguments:
        path = pathlib.Path(argument).resolve()
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            inside = file.relative_to(ROOT).parts if file.is_relative_to(ROOT) else file.parts
            if file.is_file() and file.suffix in SOURCES and not SKIPPED.intersection(inside) and file != pathlib.Path(__file__).resolve():
                yield file


found = 0
for file in files(sys.argv[1:] or [ROOT]):
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        for match in PATTERN.finditer(ALLOWED.sub("", prose(file, line))):
            name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
            print(f"{name}:{number}: '{match[0]}': {ADVICE[int(match.lastgroup[1:])]}")
            found += 1
print(f"{found} words to replace" if found else "language: no word of the list is used")
sys.exit(1 if found else 0)
