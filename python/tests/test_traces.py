"""Evaluation and selection: the numbers of `assay eval` and `assay select`."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest

import assay


def leaves(tree, name=""):
    """The estimates of summary.json by dotted name."""
    if "value" in tree and not isinstance(tree["value"], dict):
        return {name: tree}
    found = {}
    for key, below in tree.items():
        found.update(leaves(below, f"{name}.{key}" if name else key))
    return found


def test_evaluate_prints_what_assay_eval_prints(quickstart, records, tmp_path):
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    printed = subprocess.run(["assay", "eval", "--traces", file, "--json"], check=True, capture_output=True, text=True)
    expected = leaves(json.loads(printed.stdout))
    for given in (file, str(file), records):
        found = assay.evaluate(given)
        assert {name: vars(entry) for name, entry in found.items()} == expected
    frame = pd.DataFrame(found.rows())
    assert list(frame.columns) == ["name", "value", "low", "high", "n"]
    calibrated = assay.evaluate(records, calibration=assay.Critic.load(quickstart / "airl").path)
    assert "critic.auroc" in calibrated


def test_traces_of_unknown_correctness_are_counted(records):
    unknown = {key: value for key, value in records[0].items() if key not in ("answer", "correct")}
    assert assay.evaluate([*records, unknown]).unlabelled == 1
    with pytest.raises(assay.AssayError, match="traces holds no trace of known correctness"):
        assay.evaluate([unknown])


def test_select_gives_the_place_of_each_choice(records):
    choices = assay.select(records, "best_of_n")
    assert [choice.id for choice in choices] == list(dict.fromkeys(record["id"] for record in records))
    for choice in choices:
        means = [np.mean([r for r in records[i]["token_rewards"] if r is not None]) for i in choice.candidates]
        assert choice.index == choice.candidates[int(np.argmax(means))]
    longest = assay.select(records, "length")[0]
    lengths = [len(records[i]["token_ids"]) for i in longest.candidates]
    assert len(records[longest.index]["token_ids"]) == min(lengths)
    vote = assay.select(records, "majority")[0]
    assert sum(vote.probabilities) == pytest.approx(1) and 0 < vote.probability <= 1


def test_select_reads_what_a_critic_returned(critic, records):
    question, texts = records[0]["question"], [record["text"] for record in records[:16]]
    choice = assay.select(critic.score(question, texts), score="min")
    assert len(choice) == 1 and choice[0].id == question
    assert choice[0].index == critic.rerank(question, texts, score="min")[0].index


def test_traces_without_rewards_give_no_choice():
    bare = {"id": "p", "question": "q", "text": "a"}
    choice = assay.select([bare])[0]
    assert (choice.index, choice.probability, choice.probabilities) == (None, None, [])
