"""The memory that `distill --dry-run` predicts against the peak that it has."""
import json
import os
import pathlib
import subprocess
import time

import pytest

from program import OVERPROOF, SOURCE, inherited, overproof


def peak_of(*words):
    """The largest resident set of a command, in bytes: the kernel's own high-water mark, read until it ends."""
    process = subprocess.Popen([OVERPROOF, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=inherited())
    status, peak = pathlib.Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        try:
            lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        except OSError:
            break
        peak = max([peak, *(1024 * int(line.split()[1]) for line in lines)])
        time.sleep(0.005)
    assert process.wait() == 0, process.stderr.read()
    return peak


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast") / "run"
    os.environ["OVERPROOF_KEY"] = str(folder.parent / "key.pem")
    overproof("tiny-teacher", "--layers", 8, "--hidden-size", 512, "--intermediate-size", 1408, "--out", folder / "teacher")
    corpus = ["--corpus", folder / "corpus"]
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", 256, "--out", folder / "corpus")
    overproof("teach", "--teacher", folder / "teacher", *corpus, "--tokens", 2048, "--out", folder / "targets")
    overproof("observe", "--teacher", folder / "teacher", *corpus, "--tokens", 512, "--out", folder / "statistics")
    overproof("carve", "--teacher", folder / "teacher", "--statistics", folder / "statistics", "--experts", 7, "--shared", 1, "--top-k", 2, "--out", folder / "carved")
    return folder


@pytest.mark.parametrize("options", [["--student", "teacher", "--train", "all"], ["--student", "teacher", "--micro-batch", 4], ["--student", "carved"],
                                     ["--student", "carved", "--teacher", "teacher", "--ema", 0.9]],
                         ids=["all", "large micro-batch", "experts", "teacher and average"])
def test_memory_of_distill_is_predicted_within_a_tenth(run, tmp_path, options):
    words = ["distill", "--targets", run / "targets", "--corpus", run / "corpus", "--steps", 2, "--batch-size", 4, "--compute", "f32",
             *[run / o if o in ("teacher", "carved") else o for o in options], "--out", tmp_path / "student"]
    predicted = json.loads(overproof(*words, "--dry-run", "--json").stdout)["estimate"]["memory_bytes"]
    measured = peak_of(*words)
    assert predicted == pytest.approx(measured, rel=0.1), (predicted / 1e6, measured / 1e6)
