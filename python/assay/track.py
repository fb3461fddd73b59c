"""Sends the metrics of a run to an experiment tracker while it trains, or afterwards.

    python -m assay.track runs/mine --to trackio            # also wandb, mlflow
    python -m assay.track runs/mine --to wandb --follow     # until the process is interrupted

It reads metrics.jsonl, so nothing has to be started before the run. The step is the iteration. The
tracker's own variables and login (`WANDB_MODE`, `MLFLOW_TRACKING_URI`, ...) say where the data go.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10 only
    tomllib = None

Log = Callable[[dict[str, float], int], None]


class Tracker:
    """A tracker: `log` is called once per iteration, `finish` once at the end."""

    def __init__(self, log: Log, finish: Callable[[], None]) -> None:
        self.log = log
        self.finish = finish


def wandb(project: str, name: str, settings: dict[str, Any]) -> Tracker:
    import wandb

    run = wandb.init(project=project, name=name, config=settings)
    return Tracker(lambda values, step: run.log(values, step=step), run.finish)


def trackio(project: str, name: str, settings: dict[str, Any]) -> Tracker:
    import trackio

    run = trackio.init(project=project, name=name, config=settings)
    return Tracker(lambda values, step: run.log(values, step=step), trackio.finish)


def mlflow(project: str, name: str, settings: dict[str, Any]) -> Tracker:
    import mlflow

    mlflow.set_experiment(project)
    mlflow.start_run(run_name=name)
    mlflow.log_params({key: str(value)[:500] for key, value in _flat(settings)})
    return Tracker(lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run)


TRACKERS = {"wandb": wandb, "trackio": trackio, "mlflow": mlflow}


def rows(path: Path, follow: bool, pause: float = 2.0) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields each iteration of a metrics file with its values; `follow` also waits for later ones.

    An incomplete last line is read again later. A resumed run may write an iteration again; the
    repetition is skipped, because its values are the same.
    """
    last, text = -1, ""
    with open(path) as file:
        while True:
            text += file.readline()
            if text.endswith("\n"):
                row, text = json.loads(text), ""
                iteration = int(row.pop("iteration"))
                if iteration > last:
                    last = iteration
                    yield iteration, {key: value for key, value in row.items() if isinstance(value, (int, float))}
            elif follow:
                time.sleep(pause)
            else:
                return


def settings_of(run: Path) -> dict[str, Any]:
    """The settings of a run; empty if the interpreter has no TOML reader."""
    path = run / "settings.toml"
    if tomllib is None or not path.exists():
        return {}
    with open(path, "rb") as file:
        return dict(tomllib.load(file))


def _flat(tree: dict[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def track(run: Path, tracker: Tracker, follow: bool = False) -> int:
    """Sends every iteration of a run and returns their number."""
    count = 0
    try:
        for step, values in rows(run / "metrics.jsonl", follow):
            tracker.log(values, step)
            count += 1
    except KeyboardInterrupt:
        pass
    finally:
        tracker.finish()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--to", choices=TRACKERS, required=True)
    parser.add_argument("--project", default="assay")
    parser.add_argument("--name", help="name of the run there; that of the directory otherwise")
    parser.add_argument("--follow", action="store_true", help="wait for further iterations until interrupted")
    arguments = parser.parse_args()
    if not (arguments.run / "metrics.jsonl").exists():
        print(f"error: {arguments.run} holds no metrics.jsonl", file=sys.stderr)
        return 1
    name = arguments.name or arguments.run.resolve().name
    try:
        tracker = TRACKERS[arguments.to](arguments.project, name, settings_of(arguments.run))
    except ImportError as error:
        print(f"error: {error}; pip install {arguments.to}", file=sys.stderr)
        return 1
    count = track(arguments.run, tracker, arguments.follow)
    print(f"{count} iterations sent to {arguments.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
