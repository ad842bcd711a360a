"""quantize on more than a gigabyte, through the command line: peak memory, a kill, a changed input, and --help without libtorch."""

import base64
import importlib.util
import json
import os
import shutil
import signal
import subprocess

import pytest

from program import OVERPROOF, SOURCE, stopped

spec = importlib.util.spec_from_file_location("quantize_stream", SOURCE / "benchmarks" / "quantize_stream.py")
stream = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stream)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    stream.write_model(folder / "model", 1, 128, 4096, 5_000_000_000)  # 1.2 GB: enough for an entry in the journal
    yield folder
    shutil.rmtree(folder)


def command(work, out):
    return [OVERPROOF, "quantize", "--model", str(work / "model"), "--out", str(work / out)]


def statement(folder):
    """Root, metrics and inputs, as signed."""
    line = (folder / "claims.jsonl").read_text().splitlines()[0]
    payload = json.loads(base64.b64decode(json.loads(line)["payload"]))
    predicate = payload["predicate"]
    return payload["subject"][0]["digest"], predicate["runDetails"]["byproducts"], predicate["buildDefinition"]["resolvedDependencies"]


def killed_once_journalled(work, out, kind):
    stopped(*command(work, out)[1:], kind=kind, after_rename="resume.json")
    assert not (work / out).exists()


def test_memory_kill_and_changed_input(work):
    _, _, peak = stream.run_program(command(work, "whole"))
    assert peak <= 256 << 20, f"{peak / 2**20:.0f} MiB"

    for kind in (signal.SIGKILL, signal.SIGINT):
        killed_once_journalled(work, "again", kind)
        done = subprocess.run(command(work, "again"), capture_output=True, text=True, check=True)
        assert "of an earlier run" in done.stdout
        assert statement(work / "again") == statement(work / "whole")
        shutil.rmtree(work / "again")
        assert not list(work.glob(".again*"))

    # One byte of the last tensor, size and time as before: the partial output must not be used for the changed model.
    killed_once_journalled(work, "changed", signal.SIGKILL)
    file = work / "model" / "model.safetensors"
    times = file.stat()
    with open(file, "r+b") as f:
        f.seek(1 << 20)
        f.write(b"\0\0")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = subprocess.run(command(work, "changed"), capture_output=True, text=True, check=True)
    assert "of an earlier run" not in done.stdout
    assert statement(work / "changed")[2] != statement(work / "whole")[2]


def test_help_and_version_start_without_libtorch(tmp_path):
    """What takes a second to load is in another program, which is not there."""
    alone = shutil.copy(OVERPROOF, tmp_path)
    for words in (["--version"], ["quantize", "--help"]):
        done = subprocess.run([alone, *words], capture_output=True, text=True, check=True, env=os.environ | {"LD_TRACE_LOADED_OBJECTS": "1"})
        assert "libc.so" in done.stdout and "torch" not in done.stdout
        assert subprocess.run([alone, *words], capture_output=True, text=True, check=True).stdout
