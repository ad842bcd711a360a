"""Log-probabilities in Parquet files as pyarrow writes them, in the layouts of DistillKit and of axolotl, to soft targets and a student.

Expected rows come from the formula in teacher_server.py.
"""
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from program import SOURCE, overproof
from test_teacher_servers import rows_of
from test_teachers import TOP, WINDOW, WINDOWS, expected, matches_document, windows_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    os.environ["OVERPROOF_KEY"] = str(folder / "key.pem")
    overproof("tiny-teacher", "--seed", 1, "--out", folder / "teacher")
    overproof("corpus", "--source", SOURCE / "examples/texts", "--tokenizer", folder / "teacher", "--window-length", WINDOW, "--held-out", 0.25, "--out",
              folder / "corpus")
    overproof("connect", "--dialect", "offline", "--model", "big", "--tokenizer", folder / "teacher", "--license", "MIT", "--out", folder / "server")
    return folder


def layout(name, ids):
    rows = [expected(ids[:i + 1]) for i in range(len(ids))]
    tokens, logs = [list(r) for r in rows], [[float(np.log(p)) for p in r.values()] for r in rows]
    if name == "distillkit":
        return {"input_ids": ids, "token_ids": tokens, "top_values": logs}
    return {"input_ids": ids, "target_token_ids": tokens, "target_logprobs": logs}


TYPES = {
    "distillkit": {"input_ids": pa.list_(pa.uint64()), "token_ids": pa.list_(pa.list_(pa.int32())), "top_values": pa.list_(pa.list_(pa.float32()))},
    "axolotl": {"input_ids": pa.list_(pa.int64()), "target_token_ids": pa.list_(pa.list_(pa.int64())), "target_logprobs": pa.list_(pa.list_(pa.float64()))},
}


@pytest.mark.parametrize("name", TYPES)
def test_parquet_becomes_soft_targets(run, name):
    stream, documents, begin = windows_of(run, "corpus", WINDOWS), [], 0
    for i, token in enumerate(stream):
        if token == 256:
            documents.append(stream[begin:i + 1])
            begin = i + 1
    file = run / f"{name}.parquet"
    schema = pa.schema(list(TYPES[name].items()))
    table = pa.Table.from_pylist([layout(name, ids) for ids in documents[1:]], schema=schema)  # one document has no rows
    parquet.write_table(table, file, row_group_size=2, compression="zstd")
    converted = subprocess.run([sys.executable, SOURCE / "tools/convert_targets.py", "--alignment", "next", file], capture_output=True, text=True, check=True)
    (run / f"{name}.jsonl").write_text(converted.stdout)
    overproof("import-targets", "--teacher", run / "server", "--corpus", run / "corpus", "--source", run / f"{name}.jsonl", "--tokens", WINDOW * WINDOWS, "--top-k",
              TOP, "--out", run / name)
    got, found = rows_of(run / name), 0
    for block in range(WINDOWS):
        block_rows = got[block * WINDOW:(block + 1) * WINDOW]
        fits = sum(all(matches_document(stream, documents, w * WINDOW + r, row) for r, row in enumerate(block_rows)) for w in range((len(stream) - 1) // WINDOW))
        assert fits == 1 or not any(block_rows)
        found += sum(bool(row) for row in block_rows)
    assert found > WINDOW * WINDOWS / 2
    overproof("distill", "--student", run / "teacher", "--targets", run / name, "--corpus", run / "corpus", "--steps", 2, "--batch-size", 2, "--out",
              run / f"student-{name}")
    refused = subprocess.run([sys.executable, SOURCE / "tools/convert_targets.py", "--alignment", "own", file], capture_output=True, text=True)
    assert refused.returncode != 0 and "--alignment" in refused.stderr
