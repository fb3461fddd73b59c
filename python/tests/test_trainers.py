"""The adapters against the calls and requests that TRL, verl and OpenRLHF document; no trainer is installed."""

import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from assay.trainers import question_of, text_of
from assay.trainers import openrlhf, verl
from assay.trainers.trl import CriticReward, token_advantages


def test_questions_and_texts_are_found_in_chats():
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}]
    assert question_of(chat) == question_of("q") == "q"
    assert text_of([{"role": "assistant", "content": "t"}]) == text_of("t") == "t"
    with pytest.raises(ValueError, match="no turn of the user"):
        question_of(chat[:1])


def test_trl_gets_the_score_of_each_completion(critic, records):
    reward = CriticReward(critic)
    some = records[:4]
    prompts = [[{"role": "user", "content": record["question"]}] for record in some]
    completions = [[{"role": "assistant", "content": record["text"]}] for record in some]
    ids = [record["token_ids"] for record in some]
    found = reward(prompts=prompts, completions=completions, completion_ids=ids, answer=["1"] * 4, trainer_state=None)
    expected = critic.score([record["question"] for record in some], [record["text"] for record in some])
    assert found == [item.score for item in expected]
    named = reward(prompts=["x"] * 4, completions=[record["text"] for record in some], question=[r["question"] for r in some])
    assert named == found
    assert reward(prompts=["q"], completions=[""]) == [None]
    assert reward.__name__ == "assay"


def test_trl_gets_rewards_of_the_policys_own_tokens(critic, records):
    reward = CriticReward(critic, same_tokenizer=True, score="min")
    cut = [record["token_ids"][:6] for record in records[:3]]
    found = reward(prompts=[r["question"] for r in records[:3]], completions=[""] * 3, completion_ids=cut)
    assert [len(item.rewards) for item in reward.last] == [6, 6, 6]
    assert found == [float(item.rewards.min()) for item in reward.last]
    with pytest.raises(ValueError, match="needs completion_ids"):
        reward(prompts=["q"], completions=["t"])


def test_token_advantages_by_hand():
    # Mean 2 over the four tokens: centred -1, 1 | 2, -2; returns -1 + 1/2, 1 | 2 - 1, -2; mean square 6.25 / 4.
    found = token_advantages([np.array([1, 3], np.float32), np.array([4, 0], np.float32)], 2, 0.5)
    size = np.sqrt(6.25 / 4) + 1e-4
    assert np.allclose(np.concatenate(found) * size, [-0.5, 1, 1, -2])
    unknown = token_advantages([np.array([np.nan, np.nan]), np.array([np.nan])], 2, 0.5)
    assert np.concatenate(unknown).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="3 completions are not groups of 2"):
        token_advantages([np.zeros(1)] * 3, 2, 0.5)


def test_verl_calls_with_its_four_arguments(critic, quickstart, records):
    record = records[0]
    call = dict(data_source="arithmetic", solution_str=record["text"], ground_truth=record["answer"])
    extra = {"question": record["question"], "num_turns": None}
    found = verl.compute_score(**call, extra_info=extra, reward=str(quickstart / "airl"))
    expected = critic.score(record["question"], [record["text"]])[0]
    assert found == {
        "score": expected.score,
        "p_correct": expected.probability,
        "lowest_reward": expected.scores["min"],
    }
    assert verl.compute_score("d", "", "1", extra, reward=str(quickstart / "airl"))["score"] == 0
    with pytest.raises(ValueError, match="extra_info has no `question`"):
        verl.compute_score("d", "t", "1", {}, reward=str(quickstart / "airl"))


@pytest.fixture
def remote(critic):
    answer = openrlhf.RemoteReward(critic, question=r"<user>(?P<question>.*)<bot>")
    with openrlhf.server(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/get_reward"
        server.shutdown()
        thread.join()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_openrlhf_posts_queries_with_their_prompts(critic, records, remote):
    some = records[:3]
    prompts = [f"<user>{record['question']}<bot>" for record in some]
    queries = [f"{prompt}{record['text']}<|end|>" for prompt, record in zip(prompts, some)]
    status, found = post(remote, {"query": queries, "prompts": prompts, "labels": ["1", "2", "3"]})
    expected = critic.score([record["question"] for record in some], [record["text"] for record in some])
    assert status == 200
    assert found["rewards"] == [item.score for item in expected]
    assert found["scores"] == [item.probability for item in expected]
    assert found["extra_logs"]["assay_lowest_reward"] == [item.scores["min"] for item in expected]
    empty = post(remote, {"query": [prompts[0] + "<|end|>"], "prompts": prompts[:1], "labels": [None]})
    assert empty == (200, {"rewards": [0.0], "scores": [0.0], "extra_logs": {"assay_lowest_reward": [0.0]}})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompts": ["a"]}, "the body has no field 'query'"),
        ([1], "the body is not a JSON object"),
        ({"query": ["ab"], "prompts": []}, "1 queries do not go with 0 prompts"),
        ({"query": ["ab"], "prompts": ["<user>b<bot>"]}, "a query does not begin with its prompt"),
        ({"query": ["ab"], "prompts": ["a"]}, "the pattern finds no question"),
    ],
)
def test_openrlhf_is_told_what_is_wrong(remote, body, message):
    status, found = post(remote, body)
    assert status == 400 and message in found["error"]


def test_a_reward_function_file_can_be_written(critic, records):
    call = openrlhf.reward_func(openrlhf.RemoteReward(critic))
    record = records[0]
    found = call([record["question"] + record["text"]], [record["question"]], [record["answer"]])
    assert found["rewards"] == [critic.score(record["question"], [record["text"]])[0].score]
