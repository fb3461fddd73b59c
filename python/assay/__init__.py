"""The critic of assay: token rewards, ranking, selection and evaluation of reasoning traces.

    import assay

    critic = assay.Critic.load("runs/quickstart/airl")
    rewards = critic.token_rewards("start 3 take 5:", "3-5=5\\n#### 5")
    print(rewards.heatmap())

Errors are `assay.AssayError` with the text that the command line prints.
"""

from __future__ import annotations

import os

# candle would start a second pool of threads beside the one that assay uses.
os.environ.setdefault("CANDLE_NUM_THREADS", "1")

from ._assay import AssayError, __version__  # noqa: E402
from ._critic import Critic  # noqa: E402
from ._results import (  # noqa: E402
    Choice,
    Estimate,
    Evaluation,
    Heatmap,
    PredictedError,
    Ranked,
    TextScore,
    TokenRewards,
)
from ._traces import evaluate, heatmap, select  # noqa: E402

__all__ = [
    "AssayError",
    "Choice",
    "Critic",
    "Estimate",
    "Evaluation",
    "Heatmap",
    "PredictedError",
    "Ranked",
    "TextScore",
    "TokenRewards",
    "__version__",
    "evaluate",
    "heatmap",
    "select",
]
