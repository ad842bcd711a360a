#!/usr/bin/env python3
"""Renders the documents of unpacked Debian packages to plain text: debian_render.py TREES OUT PACKAGE...

Manual pages by mandoc, HTML by html.parser, text as it is. Called by debian_corpus.sh.
"""
import gzip
import html.parser
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# What is a document, and what becomes of it. The first rule that fits wins; None leaves the file out.
RULES = [
    (r"usr/share/man/man\d/[^/]+\.gz$", "man"),
    (r"usr/share/doc/[^/]+/(copyright|changelog.*|NEWS.*)$", None),
    (r"usr/share/doc/debian-policy/policy\.(txt\.gz|html/_sources/index\.rst\.txt)$", None),  # its chapters are there one by one
    (r"usr/share/doc/[^/]+/.*\.txt(\.gz)?$", "text"),
    (r"usr/share/doc/bash/bashref\.html$", "html"),
]
BLOCKS = {"p", "div", "li", "ul", "ol", "dl", "dt", "dd", "tr", "table", "pre", "br", "hr", "blockquote",
          "h1", "h2", "h3", "h4", "h5", "h6", "section", "title"}


class HtmlText(html.parser.HTMLParser):
    """Text of a page: white space folded outside <pre>, a new line for each block."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden, self.pre = [], 0, 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style", "head")
        self.pre += tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style", "head")
        self.pre -= tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data if self.pre else re.sub(r"\s+", " ", data))


def render(kind, data):
    """The document's text, or "" where there is none of its own (a page that only sources another)."""
    if kind == "man":
        if data.lstrip().startswith(b".so "):
            return ""
        done = subprocess.run(["mandoc", "-T", "utf8", "-I", "os=Debian"], input=data, stdout=subprocess.PIPE, check=False)
        # Bold is "x BACKSPACE x", underline "_ BACKSPACE x".
        text = re.sub(".\b", "", done.stdout.decode("utf-8", "replace"))
    elif kind == "html":
        parser = HtmlText()
        parser.feed(data.decode("utf-8", "replace"))
        text = "".join(parser.parts)
    else:
        text = data.decode("utf-8", "replace")
    text = re.sub(r"[ \t\r\f]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
    return text + "\n" if text.strip() else ""


def documents(tree):
    """(installed path, kind) of every document in an unpacked package, sorted; links are other names of the same page."""
    found = []
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink():
                continue
            installed = path.relative_to(tree).as_posix()
            kind = next((kind for pattern, kind in RULES if re.match(pattern, installed)), None)
            if kind:
                found.append((installed, kind))
    return sorted(found)


def copyright_of(trees, package, packages):
    """A package's own copyright file, or that of the package which its documentation folder links to."""
    folder = trees / package / "usr/share/doc" / package
    if folder.is_symlink():
        package = os.path.basename(os.readlink(folder))
        if package not in packages:
            sys.exit(f"{folder}: its copyright file is in package {package}, which was not fetched")
        folder = trees / package / "usr/share/doc" / package
    return (folder / "copyright").read_bytes()


def main():
    trees, out, packages = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    count = size = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # mandoc does the work, outside of Python
        for package in sorted(packages):
            (out / package).mkdir(parents=True)
            (out / package / "copyright").write_bytes(copyright_of(trees, package, packages))

            def work(document, tree=trees / package):
                installed, kind = document
                data = (tree / installed).read_bytes()
                return render(kind, gzip.decompress(data) if installed.endswith(".gz") else data)

            found = documents(trees / package)
            for (installed, _), text in zip(found, pool.map(work, found)):
                if not text:
                    continue
                name = re.sub(r"(\.gz|\.txt\.gz)$", "", installed)
                target = out / package / (name if name.endswith(".txt") else name + ".txt")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8", newline="\n")
                count += 1
                size += len(text.encode())
    print(f"{count} documents, {size / 1e6:.1f} MB of text from {len(packages)} packages")


main()
