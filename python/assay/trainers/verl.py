"""verl: the reward as a custom reward function.

    reward.custom_reward_function.path=pkg://assay.trainers.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.reward=runs/mine

verl reads one number per response and places it at the last token, so this is the trace score.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from assay import Critic
from assay.trainers import question_of


@lru_cache(maxsize=4)
def critic(reward: str, model: str | None = None) -> Critic:
    """The reward, loaded once per process."""
    return Critic.load(reward, model=model)


def question(extra_info: Mapping[str, Any] | None, key: str = "question") -> str:
    """The question of a sample: `extra_info[key]`, or a chat there."""
    found = (extra_info or {}).get(key)
    if found is None:
        raise ValueError(f"extra_info has no `{key}`: put the question there when you prepare the data")
    return question_of(found)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: str,
    model: str | None = None,
    score: str | None = None,
    question_key: str = "question",
    **_: Any,
) -> dict[str, Any]:
    """Returns the score of one response and the values that verl also logs; 0 for an empty response."""
    found = critic(reward, model).score(question(extra_info, question_key), [solution_str], score=score)[0]
    return {
        "score": 0.0 if found.score is None else found.score,
        "p_correct": -1.0 if found.probability is None else found.probability,
        "lowest_reward": found.scores.get("min", 0.0),
    }
