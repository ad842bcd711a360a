"""An event file by TensorBoard's own protocol buffers and record writer.

Run with PyPI tensorboard 2.21: python generate.py
"""

import pathlib

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = pathlib.Path(__file__).resolve().parent
START = 1764169200.25
VALUES = [("loss", 2.5), ("terms/forward-kl", 0.1), ("lr", 0.0), ("balance", 1.0e-30)]

with open(HERE / "events.out.tfevents.golden", "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=START, file_version="brain.Event:2").SerializeToString())
    for step in (0, 1, 127, 128, 300, 2**40):
        values = [Summary.Value(tag=tag, simple_value=value + step) for tag, value in VALUES]
        writer.write(Event(wall_time=START + step, step=step, summary=Summary(value=values)).SerializeToString())
