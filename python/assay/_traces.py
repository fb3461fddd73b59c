"""Evaluation, selection and heatmaps of traces that already have rewards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from . import _assay
from ._results import Choice, Estimate, Evaluation, Heatmap, TextScore, TokenRewards

Trace = Union[Mapping[str, Any], TextScore, TokenRewards]
"""A record of traces.jsonl, or what a critic returned."""
Traces = Union[str, "os.PathLike[str]", Iterable[Trace]]
"""A file of traces, or traces."""


def evaluate(
    traces: Traces, *, score: str = "mean", calibration: str | os.PathLike[str] | None = None
) -> Evaluation:
    """Returns every metric of scored traces that `assay eval` prints.

    `calibration` is a reward directory with a calibration.json, which then sets the score.
    """
    entries, unlabelled = _assay.evaluate(_given(traces), score, calibration)
    return Evaluation({name: Estimate(*numbers) for name, numbers in entries.items()}, unlabelled)


def select(
    traces: Traces,
    selector: str = "best_of_n",
    *,
    score: str = "mean",
    among: str = "generator",
    calibration: str | os.PathLike[str] | None = None,
) -> list[Choice]:
    """Returns the trace that a selector chooses for each problem.

    Traces with one `id` belong to one problem; what a critic returned has its question as `id`.
    With `among="generator"` the traces of each generator are a group of their own; with
    `among="problem"` all traces of a problem form one group.
    """
    found = _assay.select(_given(traces), selector, score, among, calibration)
    choices = []
    for choice in found:
        probabilities = dict(zip(choice["candidates"], choice["probabilities"]))
        choices.append(Choice(probability=probabilities.get(choice["index"]), **choice))
    return choices


def heatmap(rewards: Sequence[TokenRewards | TextScore]) -> Heatmap:
    """Shows several texts on one colour scale, for `print` and for notebooks."""
    return Heatmap(rewards)


def _given(traces: Traces) -> str | os.PathLike[str] | list[str]:
    if isinstance(traces, (str, os.PathLike)):
        return traces
    return [json.dumps(_record(trace), allow_nan=False) for trace in traces]


def _record(trace: Trace) -> Mapping[str, Any]:
    return trace.trace if isinstance(trace, (TextScore, TokenRewards)) else dict(trace)
