#!/usr/bin/env python3
"""Converts log-probabilities of other trainers into the JSON Lines that `overproof import-targets` reads.

    tools/convert_targets.py --alignment own rows.jsonl > converted.jsonl
    tools/convert_targets.py --alignment next --compression compression_config.yaml data/*.parquet > converted.jsonl

Input, by its columns or members:
  input_ids, logprobs     lists of {"token": "token_id:N" or N, "logprob": x} a position: TRL and axolotl (axolotl: --logprobs NAME for another name);
                          or of [id, logprob] pairs, or of {"N": x} or {"N": {"logprob": x}} objects, as vLLM's prompt_logprobs
  input_ids, target_token_ids, target_logprobs   two lists of lists, as axolotl prepares them
  input_ids, token_ids, top_values               two lists of lists: DistillKit without compression
  input_ids, compressed_logprobs, bytepacked_indices   DistillKit, which must be installed: its own code reads them, with --compression

--alignment says which token element i is about, because the files do not:
  next   the token after input_ids[i]: rows of logits, as DistillKit's and a forward pass's
  own    input_ids[i] itself, given those before it: vLLM's prompt_logprobs, the first being null; rows that are one shorter begin at the second token

Parquet needs pyarrow. Values are natural logarithms; rows whose probabilities sum to more than 1 are refused by import-targets, so logits must not be
given. Nothing is renormalised.
"""
import argparse
import json
import pathlib
import sys


def read_rows(file):
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=64):
            yield from batch.to_pylist()
    else:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)


def token_id(token):
    if isinstance(token, int):
        return token
    text = str(token).removeprefix("token_id:")
    if not text.isdigit():
        sys.exit(f"{token!r} is no token id: rows with texts of tokens cannot be converted, ask the server for ids (return_tokens_as_token_ids)")
    return int(text)


def entries(position):
    """One position in any of the forms, as ids and logarithms."""
    if not position:
        return [], []
    if isinstance(position, dict):
        pairs = [(token_id(k), v["logprob"] if isinstance(v, dict) else v) for k, v in position.items()]
    else:
        pairs = [(token_id(e["token"]), e["logprob"]) if isinstance(e, dict) else (token_id(e[0]), e[1]) for e in position]
    return [i for i, _ in pairs], [x for _, x in pairs]


def decompressed(row, compressor):
    import torch
    columns = {name: torch.tensor(row[name]).unsqueeze(0) for name in ("compressed_logprobs", "bytepacked_indices")}
    ids, logs = compressor.decompress_to_sparse(columns)
    return ids[0].tolist(), logs[0].double().tolist()


def rows_of(row, options, compressor):
    if "token_ids" in row and "top_values" in row:
        return row["token_ids"], row["top_values"]
    if "target_token_ids" in row and "target_logprobs" in row:
        return row["target_token_ids"], row["target_logprobs"]
    if "compressed_logprobs" in row:
        return decompressed(row, compressor)
    if options.logprobs in row:
        pairs = [entries(position) for position in row[options.logprobs]]
        return [ids for ids, _ in pairs], [logs for _, logs in pairs]
    sys.exit(f"a row has none of the known columns: {sorted(row)}")


def make_compressor(options):
    if not options.compression:
        return None
    import yaml
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor
    return LogprobCompressor(config=DistributionQuantizationConfig(**yaml.safe_load(options.compression.read_text())))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--alignment", required=True, choices=["next", "own"])
    parser.add_argument("--logprobs", default="logprobs", help="the member that holds lists of tokens with their log-probabilities")
    parser.add_argument("--compression", type=pathlib.Path, help="DistillKit's compression_config.yaml")
    options = parser.parse_args()
    compressor = make_compressor(options)
    for file in options.files:
        for number, row in enumerate(read_rows(file), 1):
            ids = [int(i) for i in row["input_ids"]]
            top_ids, top_logs = (list(part) for part in rows_of(row, options, compressor))
            if options.alignment == "own":
                if len(top_ids) == len(ids):
                    if top_ids[0]:
                        sys.exit(f"{file}, row {number}: the first token has log-probabilities, so element i is not about input_ids[i]: see --alignment")
                    top_ids, top_logs = top_ids[1:], top_logs[1:]
                top_ids, top_logs = top_ids + [[]], top_logs + [[]]
            elif len(top_ids) == len(ids) - 1:
                top_ids, top_logs = top_ids + [[]], top_logs + [[]]
            if len(top_ids) != len(ids) or len(top_logs) != len(ids):
                sys.exit(f"{file}, row {number}: {len(ids)} tokens and {len(top_ids)} rows")
            json.dump({"ids": ids, "top_ids": top_ids, "top_logs": top_logs}, sys.stdout, separators=(",", ":"))
            sys.stdout.write("\n")


main()
