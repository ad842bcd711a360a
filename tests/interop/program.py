"""The program that the tests run, and input that several tests share."""
import json
import os
import pathlib
import signal
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


KILLER = pathlib.Path(OVERPROOF).parent / "libkill_at_write.so"  # tests/kill_at_write.cc


def count_writes(*words, file):
    """Runs it to its end; returns how many writes to regular files it made. `file`: where the count is stored meanwhile."""
    overproof(*words, env={"LD_PRELOAD": str(KILLER), "KILL_COUNT_TO": str(file)})
    return int(file.read_text())


def stopped(*words, kind=signal.SIGKILL, at_write=None, after_rename=None):
    """Runs it until it gets the signal, which must end it: at its write number `at_write` to a regular file, or at the first write
    after it renamed a file to `after_rename`."""
    assert KILLER.exists(), f"{KILLER} is missing; build the target kill_at_write"
    env = {"LD_PRELOAD": str(KILLER), "KILL_SIGNAL": str(int(kind))}
    env |= {"KILL_AT_WRITE": str(at_write)} if at_write else {"KILL_AFTER_RENAME": after_rename}
    done = overproof(*words, code=130 if kind == signal.SIGINT else -kind, env=env)
    assert kind != signal.SIGINT or "interrupted" in done.stderr
    return done


def write_labelled_texts(folder, sources, licenses=("CC0-1.0",)):
    """The example texts, with sources and licences assigned in turn."""
    folder.mkdir()
    records = []
    for i, file in enumerate(sorted((SOURCE / "examples/texts").glob("*.txt"))):
        (folder / file.name).write_bytes(file.read_bytes())
        records.append({"name": file.name, "license": licenses[i % len(licenses)], "source": sources[i % len(sources)]})
    (folder / "documents.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
