"""Packed trees: sequences that begin alike, laid out in one row so that the beginning is read once.

Every expensive thing here is a set of short continuations of one long context, so a row holds

    prompt ──┬── response 1          the shared prefix once, then every branch. Positions of each
             ├── response 2          branch continue the prefix, and a token attends to the prefix
             └── response G          and to its own branch, never to a sibling.

The G responses of a GRPO group continue one prompt; the turns of a MEM1 trajectory one question;
the questions about one dialogue the same sixty memories. The layout is exact, since a transformer
mixes positions only in attention: log-probs and gradients are those of separate rows, up to float
rounding.

Lists of ids in, lists of ids out: no model here. `policy.py` samples and scores with these rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One call of the language model: what it read and the ids it wrote."""

    prompt_ids: list[int]
    response_ids: list[int]  # as sampled; ends with the end-of-sequence id if `finished`
    finished: bool  # False when cut at the limit of new tokens
    # Of each response id when it was sampled, at the temperature it was sampled with (greedy: 1).
    log_probs: list[float] = field(default_factory=list)


@dataclass
class Episode:
    """The steps one reward pays for, and what is worth logging about them."""

    steps: list[Step]
    reward: float
    log: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A packed tree: one prefix and the branches that continue it. T tokens, N of them scored."""

    input_ids: list[int]  # (T,)
    position_ids: list[int]  # (T,) a branch goes on where the prefix ended
    branches: list[int]  # (T,) 0 for the prefix, then 1, 2, ... for each branch
    score_at: list[int]  # (N,) where in the row the logits stand that predict each scored token
    targets: list[int]  # (N,) the scored tokens
    token_index: list[int]  # (N,) their places among all response tokens of the batch


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Length of the longest common prefix."""
    first, last = min(prompts), max(prompts)  # all others lie between these two, so share as much
    for place, (a, b) in enumerate(zip(first, last)):
        if a != b:
            return place
    return min(len(first), len(last))


def pack(groups: Sequence[Sequence[Step]], row_budget: int) -> list[Row]:
    """Lay out groups of steps as trees of at most `row_budget` tokens (but never cut a branch).

    Steps of a group share what their prompts have in common. The rest of a prompt stands in the
    branch, unscored, before its response: so a MEM1 turn carries its own copy of the last state.
    Branches beyond the budget go to another row that repeats the prefix. The response tokens of
    all steps, in order, are numbered 0, 1, ...: `token_index` points into that numbering.
    """
    rows: list[Row] = []
    n_tokens = 0
    for group in groups:
        n_shared = shared_prefix([step.prompt_ids for step in group])
        row: Row | None = None
        for step in group:
            if not step.prompt_ids:
                raise ValueError("an empty prompt: nothing predicts the first response token")
            # The last response token predicts nothing, so it is scored but never read.
            suffix = step.prompt_ids[n_shared:] + step.response_ids[:-1]
            if row is None or len(row.input_ids) + len(suffix) > row_budget:
                prefix = step.prompt_ids[:n_shared]
                row = Row(list(prefix), list(range(n_shared)), [0] * n_shared, [], [], [])
                rows.append(row)
            start, branch = len(row.input_ids), max(row.branches, default=0) + 1
            row.input_ids.extend(suffix)
            row.position_ids.extend(range(n_shared, n_shared + len(suffix)))
            row.branches.extend([branch] * len(suffix))
            # Token i of the response is predicted one place earlier; for the first one that is
            # the last token of the prompt, in the branch or, if all is shared, in the prefix.
            first = start + len(step.prompt_ids) - n_shared
            for i, token in enumerate(step.response_ids):
                place = first + i - 1
                row.score_at.append(n_shared - 1 if place < start else place)
                row.targets.append(token)
                row.token_index.append(n_tokens + i)
            n_tokens += len(step.response_ids)
    return rows


def prompt_row(prompts: Sequence[list[int]]) -> Row:
    """The tree of prompts that are about to be answered; `score_at` is where each of them ends.

    Branch b holds what prompt b (from 1) has beyond the shared prefix: nothing, if all are equal.
    """
    n_shared = shared_prefix(prompts)
    row = Row(list(prompts[0][:n_shared]), list(range(n_shared)), [0] * n_shared, [], [], [])
    for branch, prompt in enumerate(prompts, start=1):
        row.input_ids.extend(prompt[n_shared:])
        row.position_ids.extend(range(n_shared, len(prompt)))
        row.branches.extend([branch] * (len(prompt) - n_shared))
        row.score_at.append(len(row.input_ids) - 1 if len(prompt) > n_shared else n_shared - 1)
    return row


def tree_size(prompts: Sequence[list[int]]) -> int:
    """Tokens in the tree of some prompts."""
    n_shared = shared_prefix(prompts)
    return n_shared + sum(len(prompt) - n_shared for prompt in prompts)


def alike(first: list[int], second: list[int]) -> bool:
    """Whether two prompts share so much, three quarters, that one tree is worth its wider mask.

    The questions about one dialogue stand behind the same sixty memories.
    """
    return 4 * shared_prefix([first, second]) >= 3 * max(len(first), len(second))


def shared_trees(prompts: Sequence[list[int]], largest: int = 32) -> list[list[int]]:
    """The prompts' indices, in lists of at most `largest` that are worth one tree."""
    trees: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i]):  # neighbours share the most
        if trees and len(trees[-1]) < largest and alike(prompts[trees[-1][0]], prompts[i]):
            trees[-1].append(i)
        else:
            trees.append([i])
    return trees


def tree_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask of packed rows: 0 where a token may look, the dtype's minimum else.

    `branches` is (B, T): 0 the prefix, 1.. the branches, -1 padding. Returns (B, 1, T, T).
    (A mask of ones and zeros would be *added* to the scores and forbid nothing.)
    """
    query, key = branches[:, :, None], branches[:, None, :]  # (B, T, 1), (B, 1, T)
    causal = torch.ones(branches.shape[1], branches.shape[1], device=branches.device).tril().bool()
    allowed = causal & ((key == query) | ((key == 0) & (query > 0)))  # padding sees only padding
    mask = torch.zeros(allowed.shape, dtype=dtype, device=branches.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]  # (B, 1, T, T)


def micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, at most `max_tokens` with padding (a longer row goes alone)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) + 1) * len(row.input_ids) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def pad_right(sequences: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(B, T) from lists of different lengths."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences], device=device)
