"""What trackers read of a run while it trains: TensorBoard and Weights & Biases.

    python grpo.py --tensorboard        then: tensorboard --logdir runs
    python grpo.py --wandb              after `wandb login`, or with WANDB_MODE=offline

Both packages are optional. Neither is needed to draw a curve, because metrics.csv is plain CSV:
`pandas.read_csv("runs/grpo-manager/metrics.csv", index_col="step").reward.plot()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tracker = Callable[[int, Mapping[str, float]], None]  # takes a step and its numbers


class TrackerError(Exception):
    """A tracker that cannot start; the message is one line."""


def tensorboard(folder: Path, n_done: int = 0) -> Tracker:
    """Scalars for TensorBoard, in the folder `tensorboard/` of the run.

    `n_done` is the number of steps that a resumed run has logged already. Raises TrackerError if
    the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrackerError(f"--tensorboard: the package is not installed ({error}); "
                           "pip install tensorboard, or leave the option out") from None
    # The folder may hold points of an earlier run, or of steps that are done again. Purging hides
    # them, because two curves in one chart cannot be told apart.
    writer = SummaryWriter(folder / "tensorboard", purge_step=n_done + 1 if n_done else 0)

    def track(step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, step)
        writer.flush()
    return track


def wandb(folder: Path, options: Mapping[str, Any]) -> Tracker:
    """Scalars for Weights & Biases, project memory-r1, with the options of the run.

    Raises TrackerError if the package is not installed or does not start.
    """
    try:
        import wandb as library
    except ImportError as error:
        raise TrackerError(f"--wandb: the package is not installed ({error}); "
                           "pip install wandb, or leave the option out") from None
    try:
        # MEM1 trains three more harnesses in one process: each is a run of its own.
        run = library.init(project="memory-r1", name=folder.name, dir=str(folder),
                           config=dict(options), reinit="create_new")
    except Exception as error:  # no account, no network, an account without rights
        reason = " ".join(str(error).split())[:200]
        raise TrackerError(f"--wandb: the tracker does not start: {reason} (log in with `wandb "
                           "login`, or set WANDB_MODE=offline)") from None
    return lambda step, row: run.log(dict(row), step=step)
