"""Errors are exceptions with the text of the command line, and the command is on PATH."""

import re
import subprocess

import pytest

import assay


def said(*command):
    """The message of a command that fails."""
    run = subprocess.run(["assay", *command], capture_output=True, text=True)
    assert run.returncode == 1, run
    return re.search(r"error: (.*)", run.stderr, re.DOTALL)[1].strip()


def test_a_missing_reward_is_told_as_the_command_tells_it(tmp_path):
    traces = tmp_path / "t.jsonl"
    traces.write_text('{"id": "1", "question": "q", "text": "a"}\n')
    out = tmp_path / "out.jsonl"
    for name in ("nowhere/at/all", tmp_path):
        with pytest.raises(assay.AssayError) as caught:
            assay.Critic.load(name)
        assert str(caught.value) == said("score", "--reward", name, "--traces", traces, "--out", out)


def test_a_policy_is_no_reward(quickstart):
    policy = next((quickstart / "airl" / "checkpoints").iterdir()) / "policy"
    with pytest.raises(assay.AssayError, match="is a policy, not a reward: .*reward is"):
        assay.Critic.load(policy)


def test_names_that_are_unknown_are_named(critic, records):
    with pytest.raises(assay.AssayError) as caught:
        assay.select(records, "best_of")
    assert str(caught.value) == "unknown selector `best_of`; did you mean `best_of_n`?"
    with pytest.raises(assay.AssayError, match="did you mean `soft_min`"):
        assay.evaluate(records, score="softmin")
    with pytest.raises(assay.AssayError, match="unknown trace score `lowest`"):
        critic.score("q", ["3-5=5"], score="lowest")
    with pytest.raises(assay.AssayError, match="unknown group `all`"):
        assay.select(records, among="all")
    with pytest.raises(assay.AssayError, match="is not a device; use auto, cpu"):
        assay.Critic.load("x", device="gpu")
    with pytest.raises(assay.AssayError, match="predictor `largest` is none of"):
        critic.token_rewards("q", "3-5=5", predictor="largest")
    with pytest.raises(assay.AssayError, match="unknown colour mode"):
        critic.token_rewards("q", "3-5=5").heatmap().text("rainbow")


def test_broken_traces_name_their_place(records):
    broken = {**records[1], "token_rewards": [1.0]}
    with pytest.raises(assay.AssayError, match=r"^traces:2"):
        assay.evaluate([records[0], broken])
    with pytest.raises(assay.AssayError, match="missing field `question`"):
        assay.evaluate([{"id": "1", "text": "a"}])


def test_arguments_that_do_not_fit_are_refused(critic):
    with pytest.raises(TypeError, match="not one string"):
        critic.score("q", "a text")
    with pytest.raises(assay.AssayError, match="2 questions do not go with 1 texts"):
        critic.score(["a", "b"], ["t"])
    with pytest.raises(TypeError, match="give texts or token_ids"):
        critic.token_rewards("q")


def test_the_command_line_is_installed():
    version = subprocess.run(["assay", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == f"assay {assay.__version__}"
    wrong = subprocess.run(["assay", "score", "--nonsense"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "--nonsense" in wrong.stderr
    piped = subprocess.run("assay man | head -1", shell=True, capture_output=True, text=True, check=True)
    assert piped.stdout
