"""What other tools read of a run: TensorBoard, Weights & Biases, and the Hugging Face hub.

    python grpo.py --tensorboard        then: tensorboard --logdir runs
    python grpo.py --wandb              after `wandb login`, or with WANDB_MODE=offline

Both packages are optional. Without either, metrics.csv is plain CSV: with pandas,
`read_csv("runs/grpo-manager/metrics.csv", index_col="step").reward.plot()`.

A checkpoint is an ordinary Hugging Face folder; `model_card` makes the README.md in it, with the
header that the hub reads. What is written there is what was run: options, data, scores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Tracker = Callable[[int, Mapping[str, float]], None]  # takes a step and its numbers


class TrackerError(Exception):
    """A tracker that cannot start; the message is one line."""


def tensorboard(folder: Path, n_done: int = 0) -> Tracker:
    """Scalars for TensorBoard, in the folder `tensorboard/` of the run.

    `n_done` steps of a resumed run are shown already.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrackerError(f"--tensorboard: it is not installed ({error}); "
                           "pip install tensorboard, or leave the option out") from None
    # Of an earlier run in this folder, or of steps done again, nothing is shown any more.
    writer = SummaryWriter(folder / "tensorboard", purge_step=n_done + 1 if n_done else 0)

    def track(step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, step)
        writer.flush()
    return track


def wandb(folder: Path, options: Mapping[str, Any]) -> Tracker:
    """The same for Weights & Biases, project memory-r1, with the options of the run."""
    try:
        import wandb as library
    except ImportError as error:
        raise TrackerError(f"--wandb: it is not installed ({error}); "
                           "pip install wandb, or leave the option out") from None
    try:
        # MEM1 trains two more harnesses in one process: each is a run of its own.
        run = library.init(project="memory-r1", name=folder.name, dir=str(folder),
                           config=dict(options), reinit="create_new")
    except Exception as error:  # no account, no network, an account without rights
        reason = " ".join(str(error).split())[:200]
        raise TrackerError(f"--wandb: it does not start: {reason} (log in with `wandb login`, or "
                           "set WANDB_MODE=offline)") from None
    return lambda step, row: run.log(dict(row), step=step)


def start_model(name: str) -> str:
    """A model's name for others: as on the hub, or without the path to this project."""
    home = Path(__file__).resolve().parent.parent
    path = Path(name).resolve()
    if not path.is_dir():
        return name
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name


def model_card(options: Mapping[str, Any], algorithm: str, n_questions: int, scores: str) -> str:
    """README.md of a checkpoint: the header of the hub, data, options and scores as text."""
    start = start_model(options["model"])
    role = {"manager": "the Memory Manager of Memory-R1 (arXiv 2508.19828)",
            "answer": "the Answer Agent of Memory-R1 (arXiv 2508.19828)",
            "mem1": f"MEM1 (arXiv 2506.15841), harness {options['harness']}"}[options["agent"]]
    method = {"grpo": "GRPO", "ppo": "PPO", "sft": "imitation (Memory-SFT)"}[algorithm]
    # JSON is YAML: quoted so, no name can break the header.
    header = {"library_name": "transformers", "pipeline_tag": "text-generation",
              "tags": ["memory", "agent", algorithm, options["agent"]]}
    if not Path(options["model"]).is_dir():
        header["base_model"] = start
    data = f"{n_questions} questions of {Path(options['data']).name}"
    if options["agent"] == "mem1" and options["env"] != "search":
        data = f"{n_questions} purchases in the web shop of `--env {options['env']}`"
    rest = {name: value for name, value in options.items()
            if value is not None and name not in ("model", "out")}
    return "\n".join([
        "---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---",
        f"# {method}, {options['agent']}", "",
        f"A causal language model as {role}, trained with {method} by hand-written code.", "",
        f"- Started from: `{start}`",
        f"- Trained on: {data}, {options['steps']} steps",
        "- Made for: its own prompts (prompts.py and mem1.py of the project); as a general "
        "assistant it is no better than what it started from",
        "- Load with: `policy.load_policy(folder)`, or `AutoModelForCausalLM` and "
        "`PreTrainedTokenizerFast`", "",
        "## Scores", "", "```", scores, "```", "",
        "## Options", "", "| option | value |", "|---|---|",
        *(f"| `--{name.replace('_', '-')}` | `{value}` |" for name, value in rest.items()), ""])
