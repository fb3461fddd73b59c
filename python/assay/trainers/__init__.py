"""The learned reward in other trainers: `trl`, `verl` and `openrlhf` have an adapter each.

They import no trainer, except for `trl.token_reward_trainer`, which makes a subclass of TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def question_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The question in a prompt: the text itself, or the last turn of the user in a chat."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if turn.get("role") == "user"]
    if not turns:
        raise ValueError("the prompt has no turn of the user, which would hold the question")
    return content_of(turns[-1])


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a completion: the text itself, or the turns of the assistant in a chat."""
    if isinstance(completion, str):
        return completion
    return "\n".join(content_of(turn) for turn in completion if turn.get("role") == "assistant")


def content_of(turn: Mapping[str, Any]) -> str:
    """The text of a chat turn, which may come in parts."""
    content = turn.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
