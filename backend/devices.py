"""Many devices: one process each, all running the same script. On one device all of it is a no-op.

    torchrun --nproc-per-node 4 grpo.py --model Qwen/Qwen2.5-3B-Instruct

starts four processes (*ranks*). Each holds the model and goes through the whole loop, with its own
share of every step's questions (`spread`). Four things cross from rank to rank:

1. counts     because a token's weight in the loss depends on all ranks' tokens `all_of`, `gather`
2. gradients  summed once an update, so that all ranks make the same update and their models stay
              equal                                                            `clip_gradients`
3. episodes   because only rank 0 describes, prints and writes                 `gather`
4. weights    only with `--shard`, see below

`--shard` is sharded data parallel training (FSDP2, arXiv 2304.11277). Weights, gradients and Adam's
moments, 16 bytes a weight, are cut into one piece a rank. A whole layer exists only while it
computes. Two parts of a training step do not fit to sharding as they are:

- Sampling: ranks must gather the same layers equally often, but each rank samples until its own
  last sequence ends. So all weights are gathered before sampling and cut again after it
  (`gathered`). The peak is one whole copy of the weights, without gradients or moments.
- Micro-batches: their number differs by rank. A rank with fewer adds empty ones (`in_step`).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

if dist.is_available():  # some builds of torch have no part for many devices
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from torch.distributed.tensor import distribute_tensor

RANK_STRIDE = 1_000_003  # between seeds; a CPU generator keeps the low 32 bits only


def free_memory(device: torch.device) -> int:
    """Bytes that the device could still give to this process; 0 where nobody can tell (macOS)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    amounts = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        amounts.append(1024 * next(int(line.split()[1]) for line in lines
                                   if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # a container's own limit; "max" is no number
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text())
                       for name in ("max", "current"))
        amounts.append(max(limit - used, 0))
    return min(amounts, default=0)


# ---- Starting and stopping -----------------------------------------------------------------------


def print_anything() -> None:
    """Let no character end a command: what the output cannot show is printed as "?".

    A log file on Windows knows 256 characters, and a transcript may hold any.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else somebody's own, such as a notebook's
            stream.reconfigure(errors="replace")


def start() -> None:
    """Join the other ranks if torchrun started this process; only rank 0 prints from here on."""
    if not dist.is_available() or not dist.is_torchelastic_launched() or dist.is_initialized():
        return
    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    on_gpu, place = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    if on_gpu:
        if place >= torch.cuda.device_count():
            exit_with(f"--nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}: this machine has "
                      f"{torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(place)  # "cuda" now means this one
    # Python objects travel over gloo, tensors of a GPU over NCCL. The timeout is long, because a
    # rank may wait for the slowest one's evaluation; torchrun notices a rank that died.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(hours=2))
    signal.signal(signal.SIGTERM, _on_terminate)
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")


def _on_terminate(*_: object) -> NoReturn:
    """How torchrun ends the other ranks when one has died."""
    raise ConnectionError("ended by torchrun")


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error means that another rank is gone; that rank has printed the reason."""
    backend = getattr(dist, "DistError", ConnectionError), ConnectionError
    return world_size() > 1 and (isinstance(error, backend) or "gloo" in str(error))


def end() -> None:
    """Wait for the other ranks, and close the connection."""
    if world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()


def exit_with(message: str) -> NoReturn:
    """End the program: one line on what is wrong, exit code 2."""
    if not is_main():
        time.sleep(5)  # rank 0 mostly meets the same error; torchrun then ends this rank in silence
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def world_size() -> int:
    """How many ranks there are; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which rank this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the rank that writes and prints."""
    return rank() == 0


def own_seed(seed: int) -> int:
    """A seed for this rank's sampling: two ranks must not draw the same."""
    return seed + RANK_STRIDE * rank()


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 goes through the block first, because the others then find on disk what it made."""
    if world_size() > 1 and not is_main():
        dist.barrier()
    yield
    if world_size() > 1 and is_main():
        dist.barrier()


# ---- Sharing work and what came of it ------------------------------------------------------------


def spread(items: Sequence) -> list:
    """This rank's share. Neighbours stay together, because they may share a packed row."""
    n, first = len(items), len(items) * rank() // world_size()
    return list(items[first : n * (rank() + 1) // world_size()])


def gather(items: list) -> list:
    """The items of all ranks, in the order of the ranks; undoes `spread`. They must pickle."""
    if world_size() == 1:
        return items
    shares: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(shares, items)
    return [item for share in shares for item in share]


def all_of(values: Tensor) -> Tensor:
    """(N of all ranks,) from this rank's (N,)."""
    return values if world_size() == 1 else torch.cat(gather([values.cpu()])).to(values.device)


def add_up(sums: Counter) -> Counter:
    """A step's metrics over all ranks: the sum of each, and of "skipped" the maximum.

    All ranks leave out the same updates, so a sum would count one of them several times.
    """
    of_ranks = gather([sums])
    return Counter({name: (max if name == "skipped" else sum)(counts[name] for counts in of_ranks)
                    for name in sums})


# ---- Gradients -----------------------------------------------------------------------------------


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Sum the gradients over all ranks, scale them down to `max_norm`; returns the norm before.

    Sharded gradients were summed in the backward pass. Summing moves 2 (R - 1) / R times the bytes
    of the gradients in and out of each of R ranks.
    """
    parameters = list(parameters)
    if world_size() > 1:
        reductions = [dist.all_reduce(p.grad, async_op=True) for p in parameters
                      if p.grad is not None and not is_sharded(p)]
        for reduction in reductions:
            reduction.wait()
    return whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm)).item()


def in_step(batches: Iterable[list], empty: list) -> Iterator[list]:
    """A rank's micro-batches, then `empty` ones until it has as many as any rank.

    The gradient of `empty` must be 0.
    """
    batches = list(batches)
    most = max(gather([len(batches)]))
    yield from batches
    yield from [empty] * (most - len(batches))


# ---- Sharded weights -----------------------------------------------------------------------------


class Scorer(Protocol):
    """What `shard` needs of a policy."""

    model: torch.nn.Module
    empty_batch: list  # a micro-batch whose gradient is 0
    score: Callable  # the method that is called in training, with a micro-batch


def shard(policy: Scorer, root: torch.nn.Module | None = None) -> None:
    """Cut a model's weights into one piece a rank: each layer by itself, then embeddings and head.

    `root` is the module that training calls if it is not the policy's model: a critic.
    """
    root = root or policy.model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = dist.init_device_mesh(device, (world_size(),))
    layers = next(m for m in policy.model.modules() if isinstance(m, torch.nn.ModuleList))
    for module in (*layers, root):
        fully_shard(module, mesh=mesh)
        module.set_gradient_divide_factor(1.0)  # a sum over ranks, as in `clip_gradients`
        module.set_force_sum_reduction_for_comms(True)
    # FSDP2 gathers embeddings and head around the root's `forward`. A policy calls the model's
    # parts and never `forward`, so its own `score` is registered for gathering.
    if root is policy.model:
        root.score = policy.score
        register_fsdp_forward_method(root, "score")
        policy.score = root.score
    with torch.no_grad():  # FSDP2 takes the module of the first call for the root
        (policy.score if root is policy.model else root)(policy.empty_batch)
    for module in (*layers, root):
        module.reshard()


@contextmanager
def gathered(*modules: torch.nn.Module) -> Iterator[None]:
    """Inside, sharded modules hold their whole weights, and each rank calls them as it likes."""
    parts = [(part, part is module) for module in modules for part in module.modules()
             if hasattr(part, "unshard")]
    for part, _ in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    yield
    for part, is_root in parts:
        part.reshard()
        # Embeddings and head, the root's own, stay whole: the backward pass soon needs them again.
        part.set_reshard_after_forward(not is_root, recurse=False)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only a piece of the tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, put together if it is sharded. All ranks must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def piece(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's piece of a whole tensor, cut as `like` is; all of it if `like` is whole."""
    if not is_sharded(like):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements,
                             src_data_rank=None)
