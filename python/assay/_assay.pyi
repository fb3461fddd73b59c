"""The native half: see python/src."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, TypedDict

__version__: str

class AssayError(Exception):
    """What assay refuses, with the text that the command line prints."""

class Pair(TypedDict):
    question: str
    text: str
    token_ids: Sequence[int] | None

class Scored(TypedDict):
    question: str
    text: str
    tokens: list[str]
    token_ids: bytes
    rewards: bytes
    offsets: bytes
    byte_offsets: bytes
    scores: dict[str, float]
    probability: float | None
    predicted_answer: str | None
    predicted_error: int | None
    suspicion: float | None

class Critic:
    path: PathLike[str]
    model: str
    calibrated_score: str | None
    @staticmethod
    def load(
        name: str | PathLike[str],
        model: str | PathLike[str] | None,
        device: str,
        dtype: str,
        token_budget: int,
    ) -> tuple[Critic, list[str]]: ...
    def score(self, pairs: list[Pair], predictor: str) -> list[Scored]: ...

def run_command(arguments: list[str]) -> int: ...
def evaluate(
    given: str | PathLike[str] | list[str], score: str, calibration: str | PathLike[str] | None
) -> tuple[dict[str, tuple[float, float, float, int]], int]: ...
def select(
    given: str | PathLike[str] | list[str],
    selector: str,
    score: str,
    among: str,
    calibration: str | PathLike[str] | None,
) -> list[dict[str, Any]]: ...
def heatmap_text(given: list[str], color: str, is_terminal: bool) -> str: ...
def heatmap_html(given: list[str]) -> str: ...
