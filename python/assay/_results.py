"""Results of this package's functions. pandas reads lists of them: `pandas.DataFrame(scores)`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _assay


@dataclass(frozen=True)
class TextScore:
    """The scores of one text."""

    index: int
    """Its index among the texts of the call."""
    score: float | None
    """The default trace score; None for an empty text or one longer than the model reads."""
    probability: float | None
    """P(correct) by the reward's calibration; None without one."""
    predicted_answer: str | None
    """The answer extracted from the text."""
    question: str
    text: str
    """What was scored: the text in the reward's prompt style."""
    scores: dict[str, float] = field(repr=False)
    """Every trace score by name."""
    trace: dict[str, Any] = field(repr=False, compare=False)
    """The trace as a record of traces.jsonl."""


@dataclass(frozen=True)
class PredictedError:
    """The most likely first wrong token."""

    token: int
    """Its index."""
    start: int
    """Its first character in the text."""
    end: int
    """The character after its last one."""
    text: str
    suspicion: float
    """The predictor's value, in units of reward."""


@dataclass(frozen=True, eq=False)
class TokenRewards:
    """The reward of each token of one text. A notebook shows it as a heatmap."""

    question: str
    text: str
    """What was scored: the text in the reward's prompt style."""
    tokens: list[str] = field(repr=False)
    """The text of each token; the one that ends the turn is empty."""
    token_ids: NDArray[np.uint32] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    """First character of each token in `text`, and the one after its last. Shape `[tokens, 2]`."""
    byte_offsets: NDArray[np.int64] = field(repr=False)
    """The same in bytes of UTF-8, as in traces.jsonl."""
    rewards: NDArray[np.float32] = field(repr=False)
    """The reward after each token, in logits of the discriminator."""
    score: float | None
    """The default trace score."""
    scores: dict[str, float] = field(repr=False)
    """Every trace score by name."""
    probability: float | None
    """P(correct) by the reward's calibration; None without one."""
    predicted_answer: str | None
    predicted_error: PredictedError | None
    trace: dict[str, Any] = field(repr=False)
    """The trace as a record of traces.jsonl."""

    def columns(self) -> dict[str, Any]:
        """Columns with one value per token: `pandas.DataFrame(rewards.columns())`."""
        return {
            "token": self.tokens,
            "start": self.offsets[:, 0],
            "end": self.offsets[:, 1],
            "reward": self.rewards,
        }

    def heatmap(self) -> Heatmap:
        """The coloured text, for `print` and for notebooks."""
        return Heatmap([self])

    def _repr_html_(self) -> str:
        return self.heatmap()._repr_html_()


@dataclass(frozen=True)
class Ranked:
    """One text of a ranking."""

    index: int
    """Its index among the texts of the call."""
    relevance_score: float
    """1 / (1 + exp(-score)), as the HTTP service returns it; 0 for a text without a score."""
    score: float | None
    text: str
    """The text as it was given."""


@dataclass(frozen=True)
class Choice:
    """A selector's choice among the traces of one problem."""

    id: str
    """The problem."""
    index: int | None
    """Index of the chosen trace among all traces; None if no trace has the values the selector needs."""
    probability: float | None
    """The selector's probability of that trace; below 1 if other traces are equally good."""
    candidates: list[int]
    """Indices of the traces that the selector compared."""
    probabilities: list[float]
    """The probability of each candidate."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of independent units."""


class Evaluation(Mapping[str, Estimate]):
    """The entries of `assay eval` by name. `pandas.DataFrame(evaluation.rows())` is its table."""

    def __init__(self, entries: dict[str, Estimate], unlabelled: int) -> None:
        self._entries = entries
        self.unlabelled = unlabelled
        """Traces of unknown correctness, which are left out."""

    def __getitem__(self, name: str) -> Estimate:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary an entry: name, value, low, high, n."""
        return [{"name": name, **vars(entry)} for name, entry in self._entries.items()]

    def __repr__(self) -> str:
        return f"Evaluation({len(self)} entries, {self.unlabelled} traces left out)"


class Heatmap:
    """Texts coloured by their rewards, all on one scale: blue above the median, orange below."""

    def __init__(self, rewards: Sequence[TokenRewards | TextScore]) -> None:
        self._records = [json.dumps(item.trace) for item in rewards]

    def text(self, color: str = "auto") -> str:
        """Text for a terminal. `color` is auto, always or never; auto asks whether stdout is a terminal."""
        return _assay.heatmap_text(self._records, color, sys.stdout.isatty())

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Heatmap({len(self._records)} texts)"

    def _repr_html_(self) -> str:
        return _assay.heatmap_html(self._records)
