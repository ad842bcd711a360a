"""The program that the tests run, and what several of them give it."""
import json
import os
import pathlib
import subprocess

OVERPROOF = os.environ["OVERPROOF"]
SOURCE = pathlib.Path(os.environ["OVERPROOF_SOURCE_DIR"])


def inherited():
    """The variables that it runs with, but for those of the user's that would change what it does."""
    return {k: v for k, v in os.environ.items() if not k.startswith("OPENLINEAGE_") and k not in ("SOURCE_DATE_EPOCH", "OVERPROOF_KEY_PASSPHRASE")}


def overproof(*words, code=0, env=None, timeout=600, **options):
    """Runs it to its end. `code`: the exit code that it must have, None for any. `env`: more variables for it."""
    done = subprocess.run([OVERPROOF, *map(str, words)], capture_output=True, text=True, timeout=timeout, env=inherited() | (env or {}), **options)
    assert code is None or done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def write_labelled_texts(folder, sources, licenses=("CC0-1.0",)):
    """The example texts, dealt out among sources and licences in turn."""
    folder.mkdir()
    records = []
    for i, file in enumerate(sorted((SOURCE / "examples/texts").glob("*.txt"))):
        (folder / file.name).write_bytes(file.read_bytes())
        records.append({"name": file.name, "license": licenses[i % len(licenses)], "source": sources[i % len(sources)]})
    (folder / "documents.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
