"""Reference numbers for assay-evals from numpy, scipy and scikit-learn.

Run by hand from the repository root:  python tools/golden/evals.py
Writes crates/assay-evals/tests/golden/statistics.json, which the tests of assay-evals compare within 1e-9.
"""

import json
import math
from pathlib import Path

import numpy as np
from scipy import optimize, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

OUT = Path("crates/assay-evals/tests/golden/statistics.json")
RIDGE = 1e-6
BINS = 15


def partial(x, y, controls):
    design = np.column_stack([np.ones(len(x)), *controls])
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    return stats.pearsonr(*rest)[0]


def ece(p, y):
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return sum(abs((y - p)[bins == b].sum()) for b in range(BINS)) / len(p)


def calibration(scores, y):
    """Newton to machine precision on the penalised likelihood of standardised scores."""
    centre, spread = scores.mean(), scores.std()
    x = np.column_stack([(scores - centre) / spread, np.ones(len(scores))])
    ridge = np.diag([RIDGE, 0.0])
    w = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - y) / len(y) + ridge @ w
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(y) + ridge
        w = w - np.linalg.solve(hessian, gradient)
    return [w[0] / spread, w[1] - w[0] * centre / spread]


def dataset(seed, n, ties):
    g = np.random.default_rng(seed)
    scores = g.normal(size=n) * 1.7 + 0.3
    if ties:
        scores = np.round(scores * 2) / 2
    y = (g.uniform(size=n) < 1 / (1 + np.exp(-(0.8 * scores - 0.4)))).astype(float)
    lengths = np.round(60 - 8 * scores + 12 * g.normal(size=n))
    answered = (g.uniform(size=n) < 0.8).astype(float)
    groups = g.integers(0, 12, size=n)
    p = 1 / (1 + np.exp(-scores))
    within = [
        roc_auc_score(y[groups == k], scores[groups == k]) for k in range(12) if 0 < y[groups == k].sum() < (groups == k).sum()
    ]
    rank = stats.rankdata
    welch = stats.ttest_ind(scores[y == 1], scores[y == 0], equal_var=False)
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(scores, y)
    at = np.linspace(scores.min() - 1, scores.max() + 1, 25)
    return {
        "scores": scores.tolist(),
        "correct": [bool(v) for v in y],
        "lengths": lengths.tolist(),
        "answered": answered.tolist(),
        "groups": groups.tolist(),
        "auroc": roc_auc_score(y, scores),
        "auroc_within": float(np.mean(within)),
        "average_precision": average_precision_score(y, scores),
        "brier": brier_score_loss(y, p),
        "ece": ece(p, y),
        "pearson": stats.pearsonr(scores, y)[0],
        "spearman": stats.spearmanr(scores, lengths)[0],
        "partial": partial(scores, y, [lengths, answered]),
        "partial_spearman": partial(rank(scores), rank(y), [rank(lengths), answered]),
        "welch": [welch.statistic, welch.df, welch.pvalue],
        "population_std": scores.std(),
        "quantiles": np.quantile(scores, [0.025, 0.3, 0.5, 0.975]).tolist(),
        "calibration": calibration(scores, y),
        "isotonic_at": at.tolist(),
        "isotonic": isotonic.predict(at).tolist(),
    }


def style_probe():
    """Ridge on ln(1 + count) of the commonest tokens and of the length, judged on the folds it was not fitted to."""
    g = np.random.default_rng(11)
    n, vocabulary = 240, 300
    popularity = g.permutation(vocabulary) / vocabulary
    ids = [[int(t) for t in g.choice(vocabulary, size=g.integers(5, 60), p=popularity / popularity.sum())] for _ in range(n)]
    counts = np.zeros((n, vocabulary))
    for row, tokens in enumerate(ids):
        for token in tokens:
            counts[row, token] += 1
    document = (counts > 0).sum(axis=0)
    order = sorted((t for t in range(vocabulary) if document[t] > 0), key=lambda t: (-document[t], t))[:256]
    x = np.column_stack([np.log1p(counts[:, order]), np.log1p(counts.sum(axis=1))])
    scores = np.log1p(counts[:, order[3]]) + 0.7 * g.normal(size=n)
    y = (g.uniform(size=n) < 1 / (1 + np.exp(-2 * scores))).astype(float)
    folds = g.integers(0, 5, size=n)
    predicted = np.zeros((2, n))
    for fold in range(5):
        inside = folds != fold
        for target, values in enumerate([y, scores]):
            fitted = Ridge(alpha=10.0).fit(x[inside], values[inside])
            predicted[target, ~inside] = fitted.predict(x[~inside])
    left = scores - predicted[1]
    return {
        "ids": ids,
        "scores": scores.tolist(),
        "correct": [bool(v) for v in y],
        "folds": folds.tolist(),
        "correct_auroc": roc_auc_score(y, predicted[0]),
        "reward_r2": 1 - float((left**2).sum() / ((scores - scores.mean()) ** 2).sum()),
        "residual_auroc": roc_auc_score(y, left),
    }


def main():
    pass_at_k = []
    for n, m, k in [(16, 0, 4), (16, 3, 1), (16, 3, 5), (16, 12, 10), (64, 2, 32), (200, 7, 100), (10, 10, 3)]:
        pass_at_k.append([n, m, k, 1 - math.comb(n - m, k) / math.comb(n, k)])
    rewards = np.random.default_rng(5).normal(size=40) * 3
    soft_min = [[t, float(-t * np.log(np.mean(np.exp(-rewards / t))))] for t in (0.1, 1.0, 7.0)]
    weights = 0.95 ** np.arange(len(rewards))[::-1]
    votes = [[a, b, float(stats.beta.sf(0.5, a + 1, b + 1))] for a, b in [(1, 0), (4, 0), (4, 1), (9, 4), (3, 3)]]
    golden = {
        "probe": style_probe(),
        "votes": votes,
        "datasets": [dataset(1, 400, False), dataset(2, 300, True), dataset(3, 40, True)],
        "pass_at_k": pass_at_k,
        "rewards": rewards.tolist(),
        "soft_min": soft_min,
        "product": float(np.sum(-np.logaddexp(0, -rewards))),
        "discounted": float((weights * rewards).sum() / weights.sum()),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
