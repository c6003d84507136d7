"""TensorBoard's own view of event files (needs the package tensorboard: pip install tensorboard==2.15.2).

    python make_events_golden.py ../../tests/golden/events.tfrecord   what its classes write for fixed times and numbers: tests/unit/test_trainlog.c
                                                                      must make the same bytes
    python make_events_golden.py --read RUN                           what it reads from a run's folder, compared with the run's log.csv
"""
import csv
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def write(path):
    with open(path, "wb") as f:
        records = RecordWriter(f)
        scalars = lambda *pairs: Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in pairs])
        records.write(Event(wall_time=1700000000.25, file_version="brain.Event:2").SerializeToString())
        records.write(Event(wall_time=1700000000.5, step=301, session_log=SessionLog(status=SessionLog.START)).SerializeToString())
        records.write(Event(wall_time=1700000001.125, summary=scalars(("val/giou", 0.5))).SerializeToString())
        records.write(Event(wall_time=1700000002.0, step=1, summary=scalars(("loss", 0.75), ("loss/ce", 0.0), ("rate", 3e-4))).SerializeToString())
        records.write(Event(wall_time=1700000003.0, step=1 << 40, summary=scalars(("loss", float("-inf")), ("x" * 200, 1e-30))).SerializeToString())


def read(folder):
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    f32 = lambda x: struct.unpack("f", struct.pack("f", x))[0]
    rows = list(csv.DictReader(open(f"{folder}/log.csv")))
    for name in rows[0]:
        if name == "step":
            continue
        want = [(int(r["step"]), float(r[name])) for r in rows if r[name]]
        last = {e.step: e.value for e in events.Scalars(name)} if name in events.Tags()["scalars"] else {}
        wrong = [(s, v, last.get(s)) for s, v in want if abs(last.get(s, float("inf")) - f32(v)) > 2e-7 * abs(v) and v == v]
        print(f"{name}: {len(want)} values, {len(last)} events, {len(wrong)} wrong", *wrong[:3])
        assert not wrong and len(last) == len(want)


if sys.argv[1] == "--read":
    read(sys.argv[2])
else:
    write(sys.argv[1])
