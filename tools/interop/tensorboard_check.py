"""Compares an event file of `assay export --format tensorboard` with the run's metrics.jsonl, with the official reader.

    python -m venv venv && venv/bin/pip install tensorboard
    assay export --run RUN --format tensorboard --out EVENTS
    venv/bin/python tools/interop/tensorboard_check.py RUN EVENTS

Prints the number of values, which are equal to f32, and their steps; fails on the first difference.
"""

import json
import sys
from pathlib import Path

import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(run, events):
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    expected = {}
    for line in lines:
        for tag, value in line.items():
            if tag not in ("iteration", "phase"):
                expected[tag, line["iteration"]] = numpy.float32(value)
    reader = EventAccumulator(events, size_guidance={"scalars": 0})
    reader.Reload()
    found = {}
    for tag in reader.Tags()["scalars"]:
        for event in reader.Scalars(tag):
            found[tag, event.step] = numpy.float32(event.value)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for key, value in expected.items():
        assert found[key] == value, (key, value, found[key])
    tags = len({tag for tag, _ in expected})
    print(f"{len(expected)} values of {tags} tags at {len(lines)} steps, all equal to f32")


if __name__ == "__main__":
    main(*sys.argv[1:])
