"""The critic: the numbers of `assay score`, bit for bit, and what is made from them."""

import dataclasses
import threading
import time

import numpy as np
import pandas as pd
import pytest

import assay


def bits(values):
    return np.asarray(values, dtype=np.float32).view(np.uint32)


def test_token_rewards_are_those_of_assay_score(critic, records, scored):
    for record, expected in zip(records[:20], scored):
        found = critic.token_rewards(record["question"], record["text"])
        assert found.text == expected["text"]
        assert found.token_ids.tolist() == expected["token_ids"]
        assert found.byte_offsets.tolist() == expected["token_offsets"]
        assert found.rewards.dtype == np.float32
        assert (bits(found.rewards) == bits(expected["token_rewards"])).all()


def test_scores_are_those_of_assay_score(critic, records, scored):
    found = critic.score([record["question"] for record in records], [record["text"] for record in records])
    for item, expected in zip(found, scored):
        assert item.scores.keys() == expected["scores"].keys()
        for name, value in expected["scores"].items():
            assert bits([item.scores[name]]) == bits([value]), name
        assert item.predicted_answer == expected.get("predicted_answer")
        assert item.score == item.scores[critic.default_score]


def test_a_text_scores_the_same_alone_and_among_others(critic, records):
    texts = [record["text"] for record in records[:16]]
    together = critic.token_rewards_of(records[0]["question"], texts)
    for text, found in zip(texts, together):
        alone = critic.token_rewards(records[0]["question"], text)
        assert (bits(alone.rewards) == bits(found.rewards)).all()


def test_token_ids_are_scored_as_they_are(critic, records, scored):
    for record, expected in zip(records[:8], scored):
        found = critic.token_rewards(record["question"], token_ids=record["token_ids"])
        assert found.token_ids.tolist() == record["token_ids"]
        assert found.text == record["text"]
        if record["token_ids"] == expected["token_ids"]:
            assert (bits(found.rewards) == bits(expected["token_rewards"])).all()
    cut = records[0]["token_ids"][:5]
    assert len(critic.token_rewards(records[0]["question"], token_ids=cut).rewards) == 5


def test_offsets_count_characters(critic):
    found = critic.token_rewards("start 3 take 5:", "3-5=5 é\n#### 5")
    pieces = [found.text[start:end] for start, end in found.offsets]
    assert pieces == found.tokens
    raw = found.text.encode()
    assert [raw[start:end].decode() for start, end in found.byte_offsets] == found.tokens


def test_the_predicted_error_is_the_largest_drop(critic, records):
    found = critic.token_rewards(records[0]["question"], records[0]["text"])
    drops = found.rewards[:-1].astype(np.float64) - found.rewards[1:].astype(np.float64)
    error = found.predicted_error
    assert error.token == int(drops.argmax()) + 1
    assert error.suspicion == drops.max()
    assert found.text[error.start : error.end] == error.text
    lowest = critic.token_rewards(records[0]["question"], records[0]["text"], predictor="lowest_reward")
    assert lowest.predicted_error.token == int(found.rewards.argmin())


def test_rerank_puts_the_best_first(critic, records):
    texts = [record["text"] for record in records[:16]]
    ranked = critic.rerank(records[0]["question"], [*texts, ""])
    scores = [item.score for item in ranked]
    assert scores[-1] is None and ranked[-1].relevance_score == 0 and ranked[-1].index == 16
    assert scores[:-1] == sorted(scores[:-1], reverse=True)
    assert all(texts[item.index] == item.text for item in ranked[:-1])
    assert len(critic.rerank(records[0]["question"], texts, top_n=3)) == 3
    best = critic.rerank(records[0]["question"], texts, score="min")[0]
    lows = [item.scores["min"] for item in critic.score(records[0]["question"], texts)]
    assert best.index == int(np.argmax(lows))


def test_calibrated_rewards_give_probabilities(critic, records):
    found = critic.score(records[0]["question"], [record["text"] for record in records[:16]])
    assert all(0 <= item.probability <= 1 for item in found)
    ordered = sorted(found, key=lambda item: item.scores[critic.default_score])
    probabilities = [item.probability for item in ordered]
    assert probabilities == sorted(probabilities)


def test_pandas_reads_results(critic, records):
    texts = [record["text"] for record in records[:4]]
    scores = critic.score(records[0]["question"], texts)
    frame = pd.DataFrame(scores)
    assert frame["score"].tolist() == [item.score for item in scores]
    rewards = critic.token_rewards(records[0]["question"], texts[0])
    table = pd.DataFrame(rewards.columns())
    assert table["reward"].dtype == np.float32 and len(table) == len(rewards.tokens)
    assert pd.DataFrame(critic.rerank(records[0]["question"], texts))["index"].nunique() == 4


def test_texts_without_a_token_have_no_score(critic):
    empty = critic.score("start 3 take 5:", [""])[0]
    assert (empty.score, empty.probability, empty.scores) == (None, None, {})
    rewards = critic.token_rewards("start 3 take 5:", "")
    assert rewards.rewards.shape == (0,) and rewards.offsets.shape == (0, 2)
    assert rewards.predicted_error is None


def test_other_threads_run_while_the_critic_scores(critic, records):
    """A thread counts while the main thread scores; with the lock held it would not get on."""
    counted, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counted[0] += 1
            time.sleep(0.001)

    texts = [record["text"] for record in records] * 20
    questions = [record["question"] for record in records] * 20
    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    started = time.monotonic()
    critic._native.score(
        [{"question": q, "text": t, "token_ids": None} for q, t in zip(questions, texts)], "largest_drop"
    )
    seconds = time.monotonic() - started
    during = counted[0] - before
    done.set()
    thread.join()
    # The lock is held only while the results are built; a thread needs 1 ms and a turn of a busy processor a count.
    assert during > 20 * seconds, f"{during} counts in {seconds:.2f} s"


def test_threads_share_a_critic(critic, records):
    question, texts = records[0]["question"], [record["text"] for record in records[:16]]
    expected = [item.scores for item in critic.score(question, texts)]
    found = {}

    def score(name):
        found[name] = [item.scores for item in critic.score(question, texts)]

    threads = [threading.Thread(target=score, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[name] == expected for name in range(4))


def test_results_are_frozen(critic):
    found = critic.token_rewards("start 3 take 5:", "3-5=5\n#### 5")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.text = "other"


def test_a_heatmap_is_text_and_html(critic):
    found = critic.token_rewards("start 3 take 5:", "3-5=5\n#### 5")
    plain = found.heatmap().text("never")
    assert plain.startswith("reward ") and "\x1b" not in plain and "3-5=5" in plain.replace("[", "").replace("]", "")
    assert "\x1b[" in found.heatmap().text("always")
    html = found._repr_html_()
    assert html.count("<span") > len(found.tokens) and "<script" not in html
    both = assay.heatmap([found, critic.token_rewards("start 1 <b>:", "1=1\n#### 1")])
    assert both._repr_html_().count("border-radius") == 2
    assert "<b>" not in both._repr_html_()
