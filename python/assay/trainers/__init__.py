"""The learned reward in other trainers: one adapter each for `trl`, `verl` and `openrlhf`.

None imports a trainer, except `trl.token_reward_trainer`, which makes a subclass of TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def question_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """Returns the question of a prompt: the text itself, or the last user turn of a chat."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if turn.get("role") == "user"]
    if not turns:
        raise ValueError("the prompt has no turn of the user, which would hold the question")
    return content_of(turns[-1])


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of a completion: the text itself, or the assistant turns of a chat."""
    if isinstance(completion, str):
        return completion
    return "\n".join(content_of(turn) for turn in completion if turn.get("role") == "assistant")


def content_of(turn: Mapping[str, Any]) -> str:
    """Returns the text of a chat turn, which may consist of several parts."""
    content = turn.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
