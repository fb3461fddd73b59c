"""Metrics go to a tracker once each, in order, and wait for a line that is being written."""

import json
import subprocess
import sys
import threading
import time

from assay.track import Tracker, rows, settings_of, track


def test_every_iteration_is_sent_once(quickstart):
    sent, ended = [], []
    tracker = Tracker(lambda values, step: sent.append((step, values)), lambda: ended.append(True))
    count = track(quickstart / "airl", tracker)
    lines = (quickstart / "airl" / "metrics.jsonl").read_text().splitlines()
    assert count == len(sent) == len(lines) and ended == [True]
    assert [step for step, _ in sent] == list(range(count))
    first = json.loads(lines[0])
    assert sent[0][1]["reward/loss"] == first["reward/loss"]
    assert "phase" not in sent[0][1] and "iteration" not in sent[0][1]
    seed = settings_of(quickstart / "airl")["seed"]
    assert f"seed = {seed}\n" in (quickstart / "airl" / "settings.toml").read_text()


def test_unfinished_lines_and_repetitions_wait(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration":0,"a":1}\n{"iteration":1,"a"')
    found = []

    def read():
        for step, values in rows(path, follow=True, pause=0.01):
            found.append((step, values))
            if step == 2:
                return

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    assert found == [(0, {"a": 1})]
    with open(path, "a") as file:
        file.write(':2}\n{"iteration":1,"a":2}\n{"iteration":2,"a":3}\n')
    thread.join(timeout=10)
    assert found == [(0, {"a": 1}), (1, {"a": 2}), (2, {"a": 3})]


def test_a_directory_without_metrics_is_refused(tmp_path):
    command = [sys.executable, "-m", "assay.track", tmp_path, "--to", "wandb"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and "holds no metrics.jsonl" in run.stderr
