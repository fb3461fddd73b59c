"""A learned reward as a critic."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _assay
from ._results import PredictedError, Ranked, TextScore, TokenRewards

PREDICTORS = ("largest_drop", "lowest_reward", "lowest_reward_number", "change_point")
"""Predictors of the first error that need rewards only."""


class Critic:
    """A reward with its base model, open for scoring. Calls from several threads are safe."""

    def __init__(self, native: _assay.Critic, score: str | None) -> None:
        self._native = native
        self._score = score or native.calibrated_score or "mean"

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        score: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        token_budget: int = 4096,
    ) -> Critic:
        """Opens a reward by a run, a checkpoint, a reward directory or a hub name.

        `model` replaces the base model that the reward names. `score` is the default trace score;
        without it the score of the reward's calibration is used, else the mean.
        """
        native, notes = _assay.Critic.load(name, model, device, dtype, token_budget)
        for note in notes:
            if note.startswith("warning: "):
                warnings.warn(note.removeprefix("warning: "), stacklevel=2)
        return cls(native, score)

    @property
    def path(self) -> str:
        """The reward's own directory."""
        return os.fspath(self._native.path)

    @property
    def model(self) -> str:
        """The name or path of the base model."""
        return self._native.model

    @property
    def default_score(self) -> str:
        """Name of the default trace score."""
        return self._score

    def score(self, question: str | Sequence[str], texts: Sequence[str], *, score: str | None = None) -> list[TextScore]:
        """Returns every trace score of each text. `question` is one for all texts or one per text."""
        found = self._score_all(_pairs(question, texts, None), "largest_drop")
        name = score or self._score
        return [
            TextScore(
                index=index,
                score=_named(item, name),
                probability=item["probability"],
                predicted_answer=item["predicted_answer"],
                question=item["question"],
                text=item["text"],
                scores=item["scores"],
                trace=_trace(item, index),
            )
            for index, item in enumerate(found)
        ]

    def token_rewards(
        self,
        question: str,
        text: str | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        predictor: str = "largest_drop",
    ) -> TokenRewards:
        """Returns the reward of each token of one text, and the most likely first wrong token.

        `token_ids` are ids of the reward's own tokenizer, as a sampler returned them. They are scored
        without tokenizing again, and `text` may be omitted.
        """
        ids = None if token_ids is None else [token_ids]
        texts = None if text is None else [text]
        return self.token_rewards_of([question], texts, token_ids=ids, predictor=predictor)[0]

    def token_rewards_of(
        self,
        questions: str | Sequence[str],
        texts: Sequence[str] | None = None,
        *,
        token_ids: Sequence[Sequence[int]] | None = None,
        predictor: str = "largest_drop",
    ) -> list[TokenRewards]:
        """Returns `token_rewards` of many texts, computed in one call."""
        if predictor not in PREDICTORS:
            raise _assay.AssayError(f"predictor `{predictor}` is none of {', '.join(PREDICTORS)}")
        found = self._score_all(_pairs(questions, texts, token_ids), predictor)
        return [_token_rewards(item, index, self._score) for index, item in enumerate(found)]

    def rerank(
        self, question: str, texts: Sequence[str], *, top_n: int | None = None, score: str | None = None
    ) -> list[Ranked]:
        """Returns the texts, best first. Equal scores keep their order; texts without a score come last."""
        scores = [item.score for item in self.score(question, texts, score=score)]
        keys = [-math.inf if score is None else score for score in scores]
        order = sorted(range(len(texts)), key=keys.__getitem__, reverse=True)
        return [
            Ranked(index=i, relevance_score=_relevance(scores[i]), score=scores[i], text=texts[i]) for i in order[:top_n]
        ]

    def _score_all(self, pairs: list[_assay.Pair], predictor: str) -> list[_assay.Scored]:
        return self._native.score(pairs, predictor)

    def __repr__(self) -> str:
        return f"Critic({self.path!r}, score={self._score!r})"


def _pairs(
    question: str | Sequence[str], texts: Sequence[str] | None, token_ids: Sequence[Sequence[int]] | None
) -> list[_assay.Pair]:
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, not one string")
    if texts is None and token_ids is None:
        raise TypeError("give texts or token_ids")
    count = len(texts if texts is not None else token_ids or [])
    questions = [question] * count if isinstance(question, str) else list(question)
    for name, given in (("questions", questions), ("texts", texts), ("token_ids", token_ids)):
        if given is not None and len(given) != count:
            raise _assay.AssayError(f"{len(given)} {name} do not go with {count} texts")
    return [
        {
            "question": questions[i],
            "text": "" if texts is None else texts[i],
            "token_ids": None if token_ids is None else [int(token) for token in token_ids[i]],
        }
        for i in range(count)
    ]


def _named(item: _assay.Scored, name: str) -> float | None:
    scores = item["scores"]
    if scores and name not in scores:
        raise _assay.AssayError(f"unknown trace score `{name}`: known are {', '.join(scores)}")
    return scores.get(name)


def sigmoid(score: float) -> float:
    """1 / (1 + exp(-score)) without overflow."""
    tail = math.exp(-abs(score))
    return 1 / (1 + tail) if score >= 0 else tail / (1 + tail)


def _relevance(score: float | None) -> float:
    return 0.0 if score is None else sigmoid(score)


def _token_rewards(item: _assay.Scored, index: int, score: str) -> TokenRewards:
    place, suspicion = item["predicted_error"], item["suspicion"]
    offsets = _pairs_of(item["offsets"])
    error = None
    if place is not None and suspicion is not None:
        start, end = (int(at) for at in offsets[place])
        error = PredictedError(place, start, end, item["tokens"][place], suspicion)
    return TokenRewards(
        question=item["question"],
        text=item["text"],
        tokens=item["tokens"],
        token_ids=np.frombuffer(item["token_ids"], np.uint32),
        offsets=offsets,
        byte_offsets=_pairs_of(item["byte_offsets"]),
        rewards=np.frombuffer(item["rewards"], np.float32),
        score=_named(item, score),
        scores=item["scores"],
        probability=item["probability"],
        predicted_answer=item["predicted_answer"],
        predicted_error=error,
        trace=_trace(item, index),
    )


def _pairs_of(numbers: bytes) -> NDArray[np.int64]:
    return np.frombuffer(numbers, np.int64).reshape(-1, 2)


def _trace(item: _assay.Scored, index: int) -> dict[str, Any]:
    """A record of traces.jsonl. A float of 32 bits is written so that it reads back to the same bits."""
    scores = dict(item["scores"])
    if item["probability"] is not None:
        scores["p_correct"] = item["probability"]
    rewards = [None if math.isnan(reward) else reward for reward in np.frombuffer(item["rewards"], np.float32).tolist()]
    return {
        "id": item["question"],
        "question": item["question"],
        "generator": "python",
        "text": item["text"],
        "token_ids": np.frombuffer(item["token_ids"], np.uint32).tolist(),
        "token_offsets": _pairs_of(item["byte_offsets"]).tolist(),
        "token_rewards": rewards,
        "scores": scores,
        "predicted_answer": item["predicted_answer"],
    }
