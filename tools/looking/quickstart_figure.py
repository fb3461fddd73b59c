"""Draws docs/images/quickstart.svg: accuracies of `assay quickstart` with 95 % intervals, one point a seed.

    python tools/looking/quickstart_figure.py runs/seed-1/summary.json runs/seed-2/summary.json ... > docs/images/quickstart.svg

Needs only Python. Colours follow the reader's light or dark theme.
"""

import json
import sys

# Label, entry of summary.json, whether the learned reward is used.
POLICIES = [
    ("SFT", "policy.sft.pass_at_k.1", False),
    ("more SFT, equal tokens", "policy.more_sft.pass_at_k.1", False),
    ("AIRL, no answers", "policy.airl.pass_at_k.1", True),
    ("GRPO with the verifier", "policy.grpo.pass_at_k.1", False),
]
SELECTORS = [
    ("one of 16 at random", "select.random.at_16", False),
    ("best by log-probability", "select.logprob.at_16", False),
    ("majority vote", "select.majority.at_16", False),
    ("best by the reward", "select.best_of_n.at_16", True),
    ("vote weighted by the reward", "select.weighted_vote.at_16", True),
]
LEFT, RIGHT, TOP = 246, 700, 30
FIRST_TICK, LAST_TICK = 30, 100
ROW, SEED_GAP, HEADING = 29, 7, 36

STYLE = (
    "text{fill:#1f2328}.grid{stroke:#d0d7de}.other{stroke:#59636e;fill:#59636e}.reward{stroke:#0969da;fill:#0969da}"
    ".small{font-size:11px;fill:#59636e}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.grid{stroke:#3d444d}"
    ".other{stroke:#9198a1;fill:#9198a1}.reward{stroke:#4493f8;fill:#4493f8}.small{fill:#9198a1}}"
)


def entry(summary, name):
    """The estimate of a dotted name in the nested file."""
    for part in name.split("."):
        summary = summary[part]
    return summary


def across(percent):
    """The horizontal place of an accuracy in per cent."""
    return LEFT + (percent - FIRST_TICK) / (LAST_TICK - FIRST_TICK) * (RIGHT - LEFT)


def row(label, name, by_reward, summaries, middle):
    """One label with an interval and a point for each seed, around a height."""
    weight = ' font-weight="bold"' if by_reward else ""
    yield f'<text x="{LEFT - 14}" y="{middle + 5}" text-anchor="end"{weight}>{label}</text>'
    kind = "reward" if by_reward else "other"
    top = middle - SEED_GAP * (len(summaries) - 1) / 2
    for index, summary in enumerate(summaries):
        found = entry(summary, name)
        value, low, high = (across(100 * found[key]) for key in ("value", "low", "high"))
        height = top + SEED_GAP * index
        yield f'<line class="{kind}" stroke-width="2" x1="{low:.1f}" x2="{high:.1f}" y1="{height:g}" y2="{height:g}"/>'
        yield f'<circle class="{kind}" cx="{value:.1f}" cy="{height:g}" r="3"/>'


def body(summaries):
    """The lines of the figure, and the height at which the rows end."""
    lines, middle = ['<text x="16" y="20" font-weight="bold">pass@1 on new problems</text>'], TOP + 14
    for policy in POLICIES:
        lines += row(*policy, summaries, middle)
        middle += ROW
    heading = middle + HEADING // 2
    lines.append(f'<text x="16" y="{heading}" font-weight="bold">Choosing one of 16 answers of the SFT model</text>')
    middle += HEADING
    for selector in SELECTORS:
        lines += row(*selector, summaries, middle)
        middle += ROW
    return lines, middle


def described(label, name, summaries):
    """The values of one row as text."""
    found = [100 * entry(summary, name)["value"] for summary in summaries]
    return f"{label} " + " / ".join(f"{value:.1f}" for value in found)


def figure(summaries):
    """The figure as SVG."""
    lines, bottom = body(summaries)
    grid = []
    for tick in range(FIRST_TICK, LAST_TICK + 1, 10):
        place = f"{across(tick):.1f}"
        grid.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{TOP}" y2="{bottom}"/>')
        grid.append(f'<text class="small" x="{place}" y="{bottom + 16}" text-anchor="middle">{tick} %</text>')
    note = f'<text class="small" x="16" y="{bottom + 36}">One point a seed, with its 95 % interval</text>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 {bottom + 44}" role="img" aria-labelledby="title desc" '
        'font-family="sans-serif" font-size="13">'
    )
    title = '<title id="title">Quickstart: accuracy of trained policies and of choosing answers</title>'
    values = "; ".join(described(label, name, summaries) for label, name, _ in POLICIES + SELECTORS)
    description = f'<desc id="desc">Accuracy in per cent, one value a seed. {values}.</desc>'
    return "\n".join([head, title, description, f"<style>{STYLE}</style>", *grid, *lines, note, "</svg>"])


if __name__ == "__main__":
    files = sys.argv[1:]
    if not files:
        sys.exit(__doc__)
    loaded = []
    for file in files:
        with open(file, encoding="utf-8") as text:
            loaded.append(json.load(text))
    print(figure(loaded))
