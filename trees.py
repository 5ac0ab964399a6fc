"""Packed trees: sequences that begin alike, laid out in one row so that nothing is read twice.

Every expensive thing here is a set of short continuations of one long context, so a row holds

    prompt ──┬── "- Anna" ──┬── " likes sushi"     tokens in depth-first order; the position of each
             │              └── " lives in Oslo"   is its depth, and it attends to the tokens on
             └── "- none"                          its own path from the root, and to no other.

The responses of a GRPO group continue one prompt, the turns of a MEM1 trajectory one question, the
questions about one dialogue the same sixty memories; and responses that were sampled twice, or that
begin alike, share what they have in common. The layout is exact, since a transformer mixes
positions only in attention: what a token computes depends on its path alone. Log-probs and
gradients are those of separate rows, up to float rounding.

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
    """A packed tree of T tokens, with N predictions to score. It grows by `add`."""

    input_ids: list[int] = field(default_factory=list)  # (T,) depth first
    position_ids: list[int] = field(default_factory=list)  # (T,) depth below the root
    ends: list[int] = field(default_factory=list)  # (T,) the place behind a token's last descendant
    score_at: list[int] = field(default_factory=list)  # (N,) where the logits stand that predict
    targets: list[int] = field(default_factory=list)  # (N,) these tokens
    token_index: list[int] = field(default_factory=list)  # (N,) numbers of the targets in the batch
    path: list[int] = field(default_factory=list)  # where the tokens of the last sequence stand

    def n_new(self, sequence: list[int]) -> int:
        """How many tokens a sequence would add."""
        return len(sequence) - shared_prefix([self.input_ids[p] for p in self.path], sequence)

    # Problem 9
    def add(self, sequence: list[int]) -> None:
        """Put in one more sequence, not smaller than the last: in sorted order a trie's paths come
        depth first, so all that a sequence shares with any earlier one it shares with the last."""
        n_new = self.n_new(sequence)
        del self.path[len(sequence) - n_new:]
        start = len(self.input_ids)
        self.path.extend(range(start, start + n_new))
        self.input_ids.extend(sequence[len(sequence) - n_new:])
        self.position_ids.extend(range(len(sequence) - n_new, len(sequence)))
        self.ends.extend([0] * n_new)
        for place in self.path:
            self.ends[place] = len(self.input_ids)


def trees_of(groups: Sequence[Sequence[Episode]]) -> list[list[Step]]:
    """The steps of each group of episodes, in the order in which their tokens are numbered."""
    return [[step for episode in group for step in episode.steps] for group in groups]


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for place, (a, b) in enumerate(zip(first, second)):
        if a != b:
            return place
    return min(len(first), len(second))


def pack(groups: Sequence[Sequence[Step]], row_budget: int, width: int) -> list[Row]:
    """Lay out each group of steps as a tree of at most `row_budget` tokens (but never cut a step).

    Steps beyond the budget go to another row that repeats what it shares with this one; so do steps
    that share too little. To read a shared token again costs some 24 `width`^2 operations a layer,
    `width` being the model's; to join a row of T tokens costs 4 `width` for every pair of a new
    token with one it does not see, twice T in a masked square.

    The response tokens of all steps, in order, are numbered 0, 1, ...: `token_index` points into
    that numbering, so that several of them may be scored at one place of the tree.
    """
    rows: list[Row] = []
    n_tokens = 0
    for group in groups:
        leaves = []  # what is read of each step, its number in the group, its first token's number
        for number, step in enumerate(group):
            if not step.prompt_ids:
                raise ValueError("an empty prompt: nothing predicts the first response token")
            # The last response token predicts nothing, so it is scored but never read.
            leaves.append((step.prompt_ids + step.response_ids[:-1], number, n_tokens))
            n_tokens += len(step.response_ids)
        row: Row | None = None
        for sequence, number, first in sorted(leaves):
            if row is not None:
                n_new, size = row.n_new(sequence), len(row.input_ids)
                worth = 3 * width * (len(sequence) - n_new) >= size * n_new
            if row is None or not worth or size + n_new > row_budget:
                row = Row()
                rows.append(row)
            row.add(sequence)
            response = group[number].response_ids
            row.score_at.extend(row.path[len(sequence) - len(response):])  # one place earlier
            row.targets.extend(response)
            row.token_index.extend(range(first, first + len(response)))
    return rows


def prompt_row(prompts: Sequence[list[int]]) -> Row:
    """The tree of prompts that are about to be answered; `score_at` is where each of them ends."""
    row, ends = Row(), {}
    for number in sorted(range(len(prompts)), key=lambda number: prompts[number]):
        row.add(prompts[number])
        ends[number] = row.path[-1]
    row.score_at.extend(ends[number] for number in range(len(prompts)))
    return row


def alike(first: list[int], second: list[int]) -> bool:
    """Whether two prompts share so much, three quarters, that one tree is worth its wider mask.

    The questions about one dialogue stand behind the same sixty memories.
    """
    return 4 * shared_prefix(first, second) >= 3 * max(len(first), len(second))


def shared_trees(prompts: Sequence[list[int]], largest: int = 32) -> list[list[int]]:
    """The prompts' indices, in lists of at most `largest` that are worth one tree."""
    trees: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i]):  # neighbours share the most
        if trees and len(trees[-1]) < largest and alike(prompts[trees[-1][0]], prompts[i]):
            trees[-1].append(i)
        else:
            trees.append([i])
    return trees


# Problem 9
def tree_mask(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask of packed rows: 0 where a token may look, the dtype's minimum else.

    `ends` is (B, T): a token sees those at or before its place whose subtree has not ended there.
    Padding, behind everything, has ends of T or more and sees only padding. Returns (B, 1, T, T).
    (A mask of ones and zeros would be *added* to the scores and forbid nothing.)
    """
    places = torch.arange(ends.shape[1], device=ends.device)
    query, key = places[:, None], places[None, :]  # (T, 1), (1, T)
    allowed = (key <= query) & (query < ends[:, None, :])  # (B, T, T)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=ends.device)
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


def token_numbers(rows: Sequence[Row], device: torch.device) -> Tensor:
    """Which of the batch's N response tokens a micro-batch scores: (n,), from `token_index`."""
    return torch.tensor([i for row in rows for i in row.token_index],
                        dtype=torch.long, device=device)


def pad_right(sequences: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(B, T) from lists of different lengths."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences], device=device)
