"""TRL: the reward as a function for `GRPOTrainer` and `RLOOTrainer`, and a trainer that uses token rewards.

    from assay import Critic
    from assay.trainers.trl import CriticReward

    trainer = GRPOTrainer(model=model, reward_funcs=CriticReward(Critic.load("runs/mine")), ...)

TRL reads one number per completion from a reward function. `token_reward_trainer` gives every token
its own advantage instead, in the shape that GRPOTrainer's loss accepts from subclasses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._critic import Critic
from .._results import TokenRewards
from . import question_of, text_of

if TYPE_CHECKING:
    from trl import GRPOTrainer

Prompt = str | Sequence[Mapping[str, Any]]


class CriticReward:
    """A reward function: the trace score of each completion, and None for one that cannot be scored.

    The question is the dataset's column `question` if there is one, else the last turn of the user.
    With `same_tokenizer` the policy's own token ids are scored, which needs the tokenizer of the
    reward's base model; without it the completion's text is encoded again.
    """

    def __init__(
        self, critic: Critic, *, score: str | None = None, same_tokenizer: bool = False, name: str = "assay"
    ) -> None:
        self.critic = critic
        self.score = score or critic.default_score
        self.same_tokenizer = same_tokenizer
        self.__name__ = name
        self.last: list[TokenRewards] = []
        """Token rewards of the last call, in its order."""

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        questions = columns.get("question") or [question_of(prompt) for prompt in prompts]
        if self.same_tokenizer and completion_ids is None:
            raise ValueError("same_tokenizer needs completion_ids, which this trainer does not pass")
        ids = completion_ids if self.same_tokenizer else None
        texts = None if self.same_tokenizer else [text_of(completion) for completion in completions]
        self.last = self.critic.token_rewards_of(questions, texts, token_ids=ids)
        return [item.scores.get(self.score) for item in self.last]


def token_advantages(rewards: Sequence[NDArray[np.float32]], group: int, discount: float) -> list[NDArray[np.float64]]:
    """Returns the advantage of every token, from the token rewards of groups of `group` completions.

    With r the rewards of a group, centred on their mean over all its tokens, the return of a token is
    `G_t = r_t + discount * G_(t+1)`. The advantage is G_t over the root of the mean square of the
    group's returns. A group without rewards has advantage 0.
    """
    if group < 1 or len(rewards) % group:
        raise ValueError(f"{len(rewards)} completions are not groups of {group}")
    advantages: list[NDArray[np.float64]] = []
    for first in range(0, len(rewards), group):
        members = [np.asarray(item, dtype=np.float64) for item in rewards[first : first + group]]
        known = np.concatenate([item[np.isfinite(item)] for item in members])
        centre = known.mean() if known.size else 0.0
        returns = [_returns(np.nan_to_num(item - centre, nan=0.0), discount) for item in members]
        everything = np.concatenate(returns)
        size = np.sqrt(np.mean(everything**2)) if everything.size else 0.0
        advantages.extend(item / (size + 1e-4) for item in returns)
    return advantages


def _returns(rewards: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    returns, later = rewards.copy(), 0.0
    for place in range(len(returns) - 1, -1, -1):
        later = returns[place] = returns[place] + discount * later
    return returns


def token_reward_trainer(reward: CriticReward, *, discount: float = 0.9) -> type[GRPOTrainer]:
    """Returns a subclass of GRPOTrainer whose advantages come from token rewards.

    Pass the same `reward` as its only `reward_funcs`; TRL's `reward` in the log stays the trace score. One
    process only, because the groups of a step are normalised here. `reward.same_tokenizer` must be set:
    the rewards are then those of the policy's own tokens.
    """
    import torch
    from trl import GRPOTrainer

    if not reward.same_tokenizer:
        raise ValueError("token rewards belong to the policy's tokens: set same_tokenizer")

    class TokenRewardGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            if self.accelerator.num_processes > 1:
                raise ValueError("token rewards are normalised within one process; this run has several")
            output = super()._generate_and_score_completions(inputs)
            mask = output["completion_mask"]
            group = self.num_generations if self.model.training else self.num_generations_eval
            dense = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
            rewards = [item.rewards for item in reward.last]
            for row, advantages in enumerate(token_advantages(rewards, group, discount)):
                if len(advantages) > dense.shape[1]:
                    raise ValueError("the reward read other tokens than the policy drew; is its tokenizer the same?")
                dense[row, : len(advantages)] = torch.as_tensor(advantages, dtype=torch.float32)
            output["advantages"] = dense * mask
            return output

    return TokenRewardGRPOTrainer
