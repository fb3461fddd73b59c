"""What the scripts that run GSM8K share: commands of assay, and reading what they wrote."""

import sys


def newest(directory, player):
    """The player's directory in a run's newest checkpoint."""
    checkpoints = (directory / "checkpoints").glob("iter-*")
    last = max(checkpoints, key=lambda path: int(path.name.split("-")[1]), default=None)
    if last is None:
        sys.exit(f"{directory} has no checkpoint")
    return last / player


def train_command(trainer, config, directory, model, data, extra):
    """`assay train` on GSM8K's published files; it resumes a run that has begun."""
    settings = [f"model.path={model}", f"data.train.path={data}/train.jsonl", f"data.validation.path={data}/train.jsonl",
                f"data.test.path={data}/test.jsonl", *extra]
    sets = [word for setting in settings for word in ("--set", setting)]
    resume = ["--resume"] if (directory / "settings.toml").exists() else []
    return ["train", trainer, "-c", config, "--out", directory, *sets, *resume]


def copy_lines(source, path, first, count):
    """Writes `count` lines of a file from line `first` (from 0) to another file; returns its path."""
    with open(source) as text:
        path.write_text("".join(line for number, line in enumerate(text) if first <= number < first + count))
    return path


def estimate(summary, name):
    """`value [low, high]` of a summary's entry; the parts of its name are levels of the summary."""
    found = summary
    for part in name.split("."):
        found = found.get(part, {})
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else "-"
