"""`resume.pt`: all that changes while a model learns, in one file.

A run that was killed and goes on with `--resume` must end where it would have ended otherwise, bit
for bit. Weights alone are not enough. The file holds

- the weights that learn; frozen ones are those of the start model
- the optimizer's moments and step counts, and the schedule of the learning rate
- every random state: the sampler's, torch's and Python's, of each rank
- the logged rows: their number is the position in the data, because `--seed` alone decides the
  order of the questions
- the answers of the manager's frozen answer agent, because other batches might round differently
- validation scores, tokens and seconds so far
- the lengths of the logs (`LOGS` in training/state.py): `--resume` cuts off later lines
- the identity of the run: options, fingerprints of its models and files, number of ranks;
  `--resume` refuses a checkpoint with another identity

A new file is written beside the old one and takes its place only when it is whole and on the disk.
So one whole file exists at every moment. Two files need room: 12 bytes a trained weight each.

This module writes and reads the file; state.py gathers its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backend import devices
from backend.lora import LowRank
from policy import Policy
from training.options import named_path
from trees import Episode

FILE = "resume.pt"
# What resume.pt holds: see `TrainingState` in state.py.
CONTENT = {"identity", "before", "rows", "scores", "n_tokens", "seconds", "sizes", "modules",
           "optimizer", "schedule", "ranks"}
# Options that may change on resuming. A run that was out of memory needs smaller micro-batches,
# which change no log-prob and no gradient, but which random draw falls to which sample. A model is
# known by its weights, a judge on a server by its name: folders and servers may move, and another
# model may lie where it lay.
FREE = ("model", "manager", "answerer", "judge", "judge_url", "out", "resume", "save_every",
        "micro_batch_tokens")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or used; the message is one line."""


def fingerprint(policy: Policy) -> str:
    """Twelve hexadecimal digits that tell models apart by all that a greedy response depends on.

    They are a hash of 1,000 numbers of each tensor, and of what makes ids of a chat and ends a
    response: vocabulary, chat template and end ids. Adapters that are off do not count.
    """
    model, tokenizer = policy.model, policy.tokenizer
    words = [tokenizer.get_vocab(), tokenizer.chat_template, sorted(policy.end_ids)]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        if not policy.adapted:
            if ".lora_" in name and parameter.requires_grad:
                continue
            name = ".".join(name.rsplit(".base.", 1))  # as it was before it had these adapters
        values = parameter.detach().flatten()
        values = values[:: max(1, len(values) // 1000)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    for layer in model.modules():
        # The s by which B A counts is in no parameter.
        if isinstance(layer, LowRank) and (policy.adapted or not layer.lora_A.requires_grad):
            digest.update(f"{layer.scale}".encode())
    return digest.hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Twelve hexadecimal digits that tell files apart, or folders by the files in them."""
    paths = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for part in paths:
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def identity(options: Any, algorithm: str, weights: Mapping[str, str], n_tasks: int,
             ) -> dict[str, Any]:
    """What must be equal for a run to go on, under names that an error message can print.

    `weights` are the fingerprints of the run's models. Files are known by their content, because
    another file may lie at the same path by now.
    """
    fixed = {f"--{name.replace('_', '-')}": value for name, value in vars(options).items()
             if name not in FREE}
    files = {f"the content of --{name}": file_digest(path)
             for name in ("data", "trajectories", "embedder")
             if (path := named_path(name, getattr(options, name, None)))}
    return {"algorithm": algorithm, **fixed, **weights, **files,
            "tasks to learn from": n_tasks, "devices": devices.world_size()}


def check_resumable(folder: Path) -> None:
    """Raise CheckpointError if a run folder holds no checkpoint to go on from."""
    path = folder / FILE
    if not path.exists() and (folder / "summary.json").exists():
        raise CheckpointError(f"{folder} holds a finished run; to train its model further, start "
                              f"with --model {folder / 'checkpoint'} and another --out")
    if not path.exists():
        raise CheckpointError(f"{path}: there is nothing to resume; start without --resume "
                              "(--save-every writes checkpoints)")


def read(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint in a run folder. Raises CheckpointError if it is absent or of another run.

    `wanted` is the `identity` of the run that goes on.
    """
    check_resumable(folder)
    path = folder / FILE
    try:
        with zipfile.ZipFile(path) as file:  # torch writes a zip file: it has a checksum a part
            if broken := file.testzip():
                raise ValueError(f"{broken} in it is damaged")
        # `weights_only`, because a file with code in it could do anything. `mmap` reads each
        # tensor when it is used, so that the file need not fit into memory.
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if absent := CONTENT - saved.keys():
            raise ValueError(f"it lacks {', '.join(sorted(absent))}")
        saved_identity = saved["identity"]
    except Exception as error:  # whatever a broken file makes the library raise
        raise CheckpointError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}); "
                              "delete it and start without --resume") from error
    different = [f"{name} {saved_identity.get(name)} there, {wanted.get(name)} here"
                 for name in dict.fromkeys([*wanted, *saved_identity])
                 if saved_identity.get(name) != wanted.get(name)]
    if saved_identity.get("algorithm") != wanted.get("algorithm"):
        different = different[:1]  # the name alone, because another algorithm has other options
    if different:
        raise CheckpointError(f"{path} is of another run: {'; '.join(different)}; give what it was "
                              "started with, or choose another --out")
    for name, size in saved["sizes"].items():
        if size > file_size(folder / name):
            raise CheckpointError(f"{folder / name} lacks lines that {FILE} counts on; put it "
                                  "back, or start without either file")
    return saved


def write(path: Path, content: dict[str, Any]) -> None:
    """Put a checkpoint in the place of the last, whole or not at all; raises CheckpointError.

    `backend.files.write_whole` would need the whole content in memory first.
    """
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        if hasattr(os, "O_DIRECTORY"):  # the new name must be on the disk too
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CheckpointError(f"cannot write {path} ({' '.join(str(error).split())[:120]})"
                              ) from error


def file_size(path: Path) -> int:
    """The size in bytes, or 0 if there is no such file."""
    return path.stat().st_size if path.exists() else 0


def scores_before(saved: dict[str, Any] | None) -> tuple[dict, list[Episode]] | None:
    """The start model's scores and episodes in a checkpoint, which has no tokens of them."""
    if saved is None or saved["before"] is None:
        return None
    scores, episodes = saved["before"]
    return scores, [Episode([], reward, log) for reward, log in episodes]


def resume_command() -> str:
    """What to type to go on with this run."""
    start = ["python"]
    if devices.world_size() > 1:
        start = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    again = [] if "--resume" in sys.argv else ["--resume"]
    return shlex.join([*start, *sys.argv, *again])
