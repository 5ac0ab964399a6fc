"""Packed trees: sequences that begin alike, laid out in one row so that nothing is read twice.

What this project reads is mostly many short continuations of one long context. So a row holds

    prompt ──┬── "- Anna" ──┬── " likes sushi"     tokens in depth-first order; the position of each
             │              └── " lives in Oslo"   is its depth, and it attends to the tokens on
             └── "- none"                          its own path from the root, and to no other.

The responses of a GRPO group continue one prompt. The turns of a MEM1 trajectory continue one
question. The questions about one dialogue continue the same sixty memories. The layout is exact,
because a transformer mixes positions only in attention: what a token computes depends on its path
alone. Log-probs and gradients are those of separate rows, up to float rounding.

This file decides all about order, sharing and budgets, and knows no model. policy.py runs a model
on the rows. It calls this file once to sample (`prompt_micro_batches`) and once to score (`pack`,
then `micro_batches`). The words, in both files:

    prompt       the ids that a model reads before it writes a response
    step         one call of the model: a prompt and the response that it wrote
    episode      the steps that one reward pays for
    group        the episodes of one task, whose rewards are compared
    tree         steps, or prompts, that share a beginning
    row          a tree laid out; a tree beyond the budget takes several rows
    place        where a token stands in its row; its position is its depth in the tree
    prediction   a token to be scored or sampled, and the place whose logits predict it
    micro-batch  the rows that the model reads at once, padded to one length
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One call of the language model: what it read and the ids it wrote."""

    prompt_ids: list[int]
    response_ids: list[int]  # as sampled; ends with the end-of-sequence id if `finished`
    finished: bool  # False when cut at the limit of new tokens
    # Of each response id, at the temperature that it was sampled with (greedy: 1).
    log_probs: list[float] = field(default_factory=list)

    @property
    def read_ids(self) -> list[int]:
        """What a model reads to score the response: not its last token, which predicts nothing."""
        return self.prompt_ids + self.response_ids[:-1]


@dataclass
class Episode:
    """The steps that one reward pays for, and what is worth logging about them."""

    steps: list[Step]
    reward: float
    log: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A tree laid out in T tokens, with N predictions. It grows by `add` and `add_step`."""

    input_ids: list[int] = field(default_factory=list)  # (T,) depth first
    position_ids: list[int] = field(default_factory=list)  # (T,) depth below the root
    ends: list[int] = field(default_factory=list)  # (T,) the place behind a token's last descendant
    score_at: list[int] = field(default_factory=list)  # (N,) the places whose logits predict
    targets: list[int] = field(default_factory=list)  # (N,) these tokens
    token_index: list[int] = field(default_factory=list)  # (N,) their numbers, see `pack`
    path: list[int] = field(default_factory=list)  # the places of the last sequence's tokens

    @property
    def n_causal(self) -> int:
        """How many tokens stand before the second branch, and so see all that is before them."""
        n_tokens = len(self.input_ids)
        return next((p for p in range(n_tokens) if self.position_ids[p] != p), n_tokens)

    def n_new(self, sequence: list[int]) -> int:
        """How many tokens a sequence would add."""
        return len(sequence) - shared_prefix([self.input_ids[p] for p in self.path], sequence)

    # Problem 9
    def add(self, sequence: list[int]) -> None:
        """Put one more sequence into the row.

        Call it in sorted order. Then the longest beginning that a sequence shares with any earlier
        sequence is the one that it shares with the last, so only `path` need be compared.
        """
        n_shared = len(sequence) - self.n_new(sequence)
        start, new_ids = len(self.input_ids), sequence[n_shared:]
        del self.path[n_shared:]
        self.path.extend(range(start, start + len(new_ids)))
        self.input_ids.extend(new_ids)
        self.position_ids.extend(range(n_shared, len(sequence)))
        self.ends.extend([0] * len(new_ids))
        # The subtree of each token on the path now ends behind the new tokens.
        for place in self.path:
            self.ends[place] = len(self.input_ids)

    def add_step(self, step: Step, first: int) -> None:
        """Put in a step and predict its response tokens, numbered `first`, `first` + 1, ...

        Raises ValueError if the prompt is empty: nothing would predict the first response token.
        """
        if not step.prompt_ids:
            raise ValueError("an empty prompt: nothing predicts the first response token")
        self.add(step.read_ids)
        n_response = len(step.response_ids)
        self.score_at.extend(self.path[len(step.read_ids) - n_response:])  # one place earlier
        self.targets.extend(step.response_ids)
        self.token_index.extend(range(first, first + n_response))


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for place, (a, b) in enumerate(zip(first, second)):
        if a != b:
            return place
    return min(len(first), len(second))


def alike(first: list[int], second: list[int]) -> bool:
    """Whether two prompts share three quarters: enough for one tree to be worth its wider mask.

    The questions about one dialogue, for example, stand behind the same sixty memories.
    """
    return 4 * shared_prefix(first, second) >= 3 * max(len(first), len(second))


# ---- To sample: rows of prompts ------------------------------------------------------------------


def prompt_rows(prompts: Sequence[list[int]], largest: int = 32, n_new: int = 0,
                max_tokens: float = inf) -> list[Row]:
    """Rows of prompts to be answered; a row holds at most `largest`, each `alike` to its first.

    A prompt has one prediction, the first token of its response, and no target yet. `score_at` has
    the place where the prompt ends, and `token_index` the prompt's number. A row has at most
    `max_tokens`, with the `n_new` that may be written to each prompt. Only a prompt that is beyond
    them by itself has a longer row. `largest` is there because each new token attends over the
    whole row, masked or not: beyond some width that costs more than what is shared saves.
    """

    def may_join(row: Row, number: int) -> bool:
        n_prompts = len(row.score_at) + 1
        size = len(row.input_ids) + row.n_new(prompts[number]) + n_prompts * n_new
        return (n_prompts <= largest and size <= max_tokens
                and alike(prompts[row.token_index[0]], prompts[number]))

    rows: list[Row] = []
    # In sorted order neighbours share the most.
    for number in sorted(range(len(prompts)), key=lambda number: prompts[number]):
        if not rows or not may_join(rows[-1], number):
            rows.append(Row())
        row = rows[-1]
        row.add(prompts[number])
        row.score_at.append(row.path[-1])
        row.token_index.append(number)
    return rows


def prompt_micro_batches(prompts: Sequence[list[int]], n_new: int, max_tokens: int,
                         ) -> Iterator[list[Row]]:
    """`prompt_rows` in micro-batches of at most `max_tokens`; the smallest rows come first.

    `n_new` is how many tokens may be written to each prompt, in all of its responses. The budget
    counts the padding too. A single prompt that is beyond it goes alone.
    """
    batch: list[Row] = []
    n_prompts = 0  # in the row of this micro-batch that has the most
    rows = prompt_rows(prompts, n_new=n_new, max_tokens=max_tokens)
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        n_prompts = max(n_prompts, len(row.score_at))
        if batch and (len(batch) + 1) * (len(row.input_ids) + n_prompts * n_new) > max_tokens:
            yield batch
            batch, n_prompts = [], len(row.score_at)
        batch.append(row)
    if batch:
        yield batch


# ---- To score: rows of steps ---------------------------------------------------------------------


def trees_of(groups: Sequence[Sequence[Episode]]) -> list[list[Step]]:
    """A tree for each group: the steps of its episodes, in the order that numbers their tokens."""
    return [[step for episode in group for step in episode.steps] for group in groups]


def pack(trees: Sequence[Sequence[Step]], row_budget: int, width: int) -> list[Row]:
    """Lay out each tree of steps in rows of at most `row_budget` tokens; a step is never cut.

    Neighbouring trees whose prompts are `alike` are laid out as one. The response tokens of all
    steps, in the order given, are numbered 0, 1, ...: `token_index` holds these numbers, because
    rows have another order, and because several tokens may be predicted at one place.

    A step of which s tokens stand in the row already, and n do not, joins a row of T tokens if

        24 D^2 s  >=  8 D T n,        which is        3 D s  >=  T n        (D is `width`).

    On the left is what a row of the step's own would cost in each layer: s tokens are read again. A
    layer has some 12 D^2 weights, and each takes 2 operations a token. On the right is what joining
    costs: attention over T + n tokens computes (T + n)^2 pairs, 2 T n more than T^2 and n^2. A pair
    takes 4 D operations: 2 D for its score and 2 D for the weighted value.

    Raises ValueError if a prompt is empty.
    """
    rows: list[Row] = []
    n_tokens = 0
    for tree in join_alike(trees):
        first_numbers = []  # of each step's response tokens
        for step in tree:
            first_numbers.append(n_tokens)
            n_tokens += len(step.response_ids)
        row = None
        for step, first in sorted(zip(tree, first_numbers), key=lambda pair: pair[0].read_ids):
            if row is None or not worth_joining(row, step.read_ids, row_budget, width):
                row = Row()
                rows.append(row)
            row.add_step(step, first)
    return rows


def join_alike(trees: Sequence[Sequence[Step]]) -> list[list[Step]]:
    """The trees, with neighbours joined whose prompts are `alike`.

    Only neighbours are joined, because the order of the steps numbers the tokens.
    """
    joint_trees: list[list[Step]] = []
    for tree in trees:
        if joint_trees and alike(joint_trees[-1][0].prompt_ids, tree[0].prompt_ids):
            joint_trees[-1].extend(tree)
        else:
            joint_trees.append(list(tree))
    return joint_trees


def worth_joining(row: Row, sequence: list[int], row_budget: int, width: int) -> bool:
    """Whether a sequence should join a row: the inequality of `pack`, and the budget."""
    n_new, size = row.n_new(sequence), len(row.input_ids)
    n_shared = len(sequence) - n_new
    return 3 * width * n_shared >= size * n_new and size + n_new <= row_budget


def plain_rows(trees: Sequence[Sequence[Step]]) -> list[Row]:
    """A row for each step, in their order, for a model that cannot read trees; see `pack`."""
    rows: list[Row] = []
    n_tokens = 0
    for tree in trees:
        for step in tree:
            row = Row()
            row.add_step(step, n_tokens)
            rows.append(row)
            n_tokens += len(step.response_ids)
    return rows


def empty_row() -> Row:
    """One token to read and nothing to predict: its gradient is 0."""
    row = Row()
    row.add([0])
    return row


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


# ---- Tensors of a micro-batch --------------------------------------------------------------------


# Problem 9
def tree_mask(ends: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask of rows: 0 where a token may look, the dtype's minimum elsewhere.

    `ends` is (R, T). A token sees those at or before its place whose subtree has not ended there.
    Padding stands behind everything, has ends of T, and sees only padding. Returns (R, 1, T, T).
    (A mask of ones and zeros would be *added* to the scores and forbid nothing.)
    """
    places = torch.arange(ends.shape[1], device=ends.device)
    query, key = places[:, None], places[None, :]  # (T, 1), (1, T)
    allowed = (key <= query) & (query < ends[:, None, :])  # (R, T, T)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=ends.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]  # (R, 1, T, T)


def token_numbers(rows: Sequence[Row], device: torch.device) -> Tensor:
    """The numbers of a micro-batch's m predictions among all N response tokens: (m,)."""
    return torch.tensor([i for row in rows for i in row.token_index],
                        dtype=torch.long, device=device)


def pad_right(sequences: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(R, T) from R lists of at most T numbers; `value` stands behind the shorter ones."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences], device=device)
