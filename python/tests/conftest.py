"""The run that the tests read: `ASSAY_TEST_RUN`, a directory of `assay quickstart`, or a short one made here."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import assay

SHORT = ["sft.epochs=1", "run.iterations=4", "reward.schedule.warmup_iterations=2"]


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory) -> Path:
    given = os.environ.get("ASSAY_TEST_RUN")
    if given:
        return Path(given)
    out = tmp_path_factory.mktemp("quickstart") / "run"
    options = [word for setting in SHORT for word in ("--set", setting)]
    subprocess.run(["assay", "quickstart", "--out", out, *options], check=True)
    return out


@pytest.fixture(scope="session")
def critic(quickstart) -> assay.Critic:
    return assay.Critic.load(quickstart / "airl")


@pytest.fixture(scope="session")
def records(quickstart) -> list[dict]:
    """Samples of five problems: 16 traces each."""
    with open(quickstart / "traces.jsonl") as file:
        return [json.loads(line) for _, line in zip(range(80), file)]


@pytest.fixture(scope="session")
def scored(quickstart, records, tmp_path_factory) -> list[dict]:
    """What `assay score` says of the texts of `records`."""
    folder = tmp_path_factory.mktemp("scored")
    keys = ("id", "question", "answer", "text", "generator")
    foreign = [{key: record[key] for key in keys if key in record} for record in records]
    (folder / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in foreign))
    command = ["assay", "score", "--reward", quickstart / "airl", "--traces", folder / "texts.jsonl"]
    subprocess.run([*command, "--out", folder / "scored.jsonl"], check=True)
    return [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
