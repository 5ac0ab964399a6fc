"""Tests of trees.py: what is laid out where, read off the rows and compared with the definition.

    python -m pytest tests/test_trees.py        (a few seconds)

That a model computes the same on these rows as on plain ones is tested in test_policy.py.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trees import (
    Row,
    Step,
    alike,
    empty_row,
    join_alike,
    micro_batches,
    pack,
    pad_right,
    plain_rows,
    prompt_micro_batches,
    prompt_rows,
    shared_prefix,
    token_numbers,
    tree_mask,
)

WIDE = 10 ** 6  # a model so wide that every shared token is worth a row
CPU = torch.device("cpu")
some_ids = st.lists(st.integers(0, 2), min_size=1, max_size=6)  # few ids, so that prompts share
some_steps = st.builds(Step, some_ids, some_ids, st.booleans())
some_trees = st.lists(st.lists(some_steps, min_size=1, max_size=5), min_size=1, max_size=4)
exhaustive = settings(max_examples=60, derandomize=True)


def seen_from(row: Row, place: int) -> list[int]:
    """The places a token attends to, by the definition of `ends`."""
    return [i for i in range(place + 1) if place < row.ends[i]]


def context(row: Row, place: int) -> list[int]:
    """All ids that the logits at a place are computed from, read off the row."""
    seen = seen_from(row, place)
    assert [row.position_ids[i] for i in seen] == list(range(len(seen))), (
        "positions along a path must be 0, 1, 2, ... without a gap")
    return [row.input_ids[i] for i in seen]


@pytest.mark.parametrize("first, second, wanted", [
    ([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([1], [2], 0),
    ([7, 7], [7, 7], 2), ([1, 2, 3], [5, 2, 3], 0)])
def test_shared_prefix(first, second, wanted):
    assert shared_prefix(first, second) == shared_prefix(second, first) == wanted


# ---- Rows of steps -------------------------------------------------------------------------------

@exhaustive
@given(some_trees, st.integers(1, 40))
def test_every_token_is_predicted_once_and_from_its_own_context(trees, row_budget):
    steps = [step for tree in trees for step in tree]
    wanted = [step.prompt_ids + step.response_ids[: i + 1]
              for step in steps for i in range(len(step.response_ids))]
    for rows in (pack(trees, row_budget, WIDE), plain_rows(trees)):
        numbers = [number for row in rows for number in row.token_index]
        assert sorted(numbers) == list(range(len(wanted))), (
            "token_index is not a permutation of all response tokens")
        assert token_numbers(rows, CPU).tolist() == numbers, "not in the order of the rows"
        for row in rows:
            for place, target, number in zip(
                    row.score_at, row.targets, row.token_index, strict=True):
                assert [*context(row, place), target] == wanted[number], (
                    f"token {number} is predicted from the wrong context: a wrong end, place or "
                    "order of the tokens")
    assert [context(row, len(row.input_ids) - 1) for row in plain_rows(trees)] == [
        step.prompt_ids + step.response_ids[:-1] for step in steps], "a row for each step, in order"


@exhaustive
@given(some_trees, st.integers(1, 40))
def test_rows_read_no_token_twice_and_stay_within_the_budget(trees, row_budget):
    for row in pack(trees, row_budget, WIDE):
        assert len(row.input_ids) == len(row.position_ids) == len(row.ends), "lengths differ"
        paths = [tuple(context(row, place)) for place in range(len(row.input_ids))]
        assert len(set(paths)) == len(paths), "the same tokens in the same context, read twice"
        if len(row.input_ids) > row_budget:
            assert row.position_ids == list(range(len(row.input_ids))), (
                "two sequences in a row that is over its budget")


@exhaustive
@given(st.lists(some_steps, min_size=1, max_size=6))
def test_with_room_for_all_only_what_differs_is_read(tree):
    prefixes = {tuple(step.read_ids[:n + 1]) for step in tree for n in range(len(step.read_ids))}
    n_read = sum(len(row.input_ids) for row in pack([tree], 10 ** 6, WIDE))
    assert n_read == len(prefixes), (
        "equal beginnings, of prompts and of samples, are read once; the last token of a response "
        "predicts nothing and needs no place")


def test_branches_beyond_the_budget_repeat_the_prefix_and_are_never_cut():
    prompt = [1, 2, 3, 4]
    tree = [Step(prompt, [10 * b + i for i in range(4)], True) for b in range(1, 5)]
    rows = pack([tree], 10, WIDE)  # 4 + 3 + 3: the last response token is not read
    assert [row.input_ids for row in rows] == [
        [1, 2, 3, 4, 10, 11, 12, 20, 21, 22], [1, 2, 3, 4, 30, 31, 32, 40, 41, 42]], (
        "a row of 10 holds the prefix and two branches")
    assert rows[0].position_ids == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6], "every branch goes on at 4"
    assert rows[0].ends == [10] * 4 + [7] * 3 + [10] * 3, "the prefix lasts, branches end"
    assert rows[0].score_at == [3, 4, 5, 6, 3, 7, 8, 9], "first tokens are predicted by the prefix"
    assert [len(row.input_ids) for row in pack([tree], 1, WIDE)] == [7] * 4, (
        "a branch over the budget gets a row of its own, uncut")


def test_a_row_is_shared_only_where_that_is_cheaper():
    long, short = list(range(100, 400)), [1, 2]
    for prompt, n_rows in ((long, 1), (short, 8)):
        tree = [Step(prompt, list(range(1000 * b, 1000 * b + 40)), False) for b in range(1, 9)]
        assert len(pack([tree], 4096, 32)) == n_rows, (
            f"eight responses of 40 tokens behind {len(prompt)} shared ones, 32 wide")
    # 3 D s >= T n, one token on either side: s = 2 shared, n = 3 new, T = 2 + 6 = 8, so D = 4.
    tree = [Step([1, 2], [3] * 7, False), Step([1, 2], [4] * 4, False)]
    assert [len(pack([tree], 4096, width)) for width in (3, 4)] == [2, 1], (
        "not the inequality 3 D s >= T n of the docstring")


@exhaustive
@given(some_trees)
def test_neighbouring_trees_are_joined_where_their_prompts_are_alike(trees):
    joined = join_alike(trees)
    assert [s for tree in joined for s in tree] == [s for tree in trees for s in tree], (
        "another order of the steps is another numbering of their tokens")
    for first, second in zip(joined, joined[1:]):
        assert not alike(first[0].prompt_ids, second[0].prompt_ids), "read twice"
    assert not alike([1] * 3 + [2], [1] * 2 + [3] * 2) and alike([1] * 3 + [2], [1] * 3 + [3])


def test_an_empty_prompt_is_refused():
    for layout in (plain_rows, lambda trees: pack(trees, 100, WIDE)):
        with pytest.raises(ValueError, match="prompt"):
            layout([[Step([], [1, 2], False)]])


def test_an_empty_row_predicts_nothing():
    row = empty_row()
    assert len(row.input_ids) == 1 and not row.score_at + row.targets + row.token_index


# ---- Rows of prompts -----------------------------------------------------------------------------

@exhaustive
@given(st.lists(some_ids, max_size=12), st.integers(1, 4))
def test_every_prompt_ends_at_one_place_of_one_row(prompts, largest):
    rows = prompt_rows(prompts, largest)
    assert sorted(n for row in rows for n in row.token_index) == list(range(len(prompts))), (
        "a prompt is lost or stands twice")
    for row in rows:
        assert len(row.score_at) <= largest and not row.targets, "a row larger than allowed"
        for place, number in zip(row.score_at, row.token_index, strict=True):
            assert context(row, place) == prompts[number], (
                f"prompt {number} does not end at its place, or its path is another prompt's")
    assert [row.input_ids for row in prompt_rows([[1, 2]] * 3)] == [[1, 2]], "read three times"


def test_a_tree_is_cut_no_sooner_than_it_must_be():
    prompts = [[1] * 20 + [n] for n in range(32)]
    for room, counts in ((20 + 32 * 101, [32]), (20 + 32 * 101 - 1, [31, 1]), (20 + 404, [4] * 8),
                         (121, [1] * 32), (1, [1] * 32)):
        rows = prompt_rows(prompts, n_new=100, max_tokens=room)
        assert [len(row.score_at) for row in rows] == counts, (
            f"{room} places: 20 are shared, and each prompt takes 1 and writes 100")


@exhaustive
@given(st.lists(some_ids, max_size=12), st.integers(1, 5), st.integers(1, 80))
def test_prompts_in_micro_batches_have_room_to_write(prompts, n_new, budget):
    batches = list(prompt_micro_batches(prompts, n_new, budget))
    numbers = [n for batch in batches for row in batch for n in row.token_index]
    assert sorted(numbers) == list(range(len(prompts))), "a prompt is lost or comes twice"

    def size(batch: list[Row]) -> int:
        return len(batch) * max(len(row.input_ids) for row in batch) + len(batch) * n_new * max(
            len(row.score_at) for row in batch)

    for batch in batches:
        assert size(batch) <= budget or [len(row.score_at) for row in batch] == [1], (
            f"{size(batch)} tokens with padding and what is written, budget {budget}: only a "
            "single prompt that is too long by itself may go beyond it")
    for batch, following in zip(batches, batches[1:]):
        assert size([*batch, following[0]]) > budget, "the next row had room: slower for nothing"


# ---- Micro-batches and the mask ------------------------------------------------------------------

@exhaustive
@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 80))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    rows = [Row([0] * length, token_index=[i]) for i, length in enumerate(lengths)]
    batches = list(micro_batches(rows, budget))
    assert sorted(r.token_index[0] for b in batches for r in b) == list(range(len(rows))), \
        "a row is lost or comes twice"
    for batch in batches:
        size = len(batch) * max(len(row.input_ids) for row in batch)
        assert len(batch) == 1 or size <= budget, f"{size} tokens with padding, budget {budget}"


def ancestry(parents: list[int], place: int) -> list[int]:
    """A token and all above it."""
    path = []
    while place >= 0:
        path.append(place)
        place = parents[place]
    return path


def test_tree_mask_pair_by_pair():
    trees = [  # for each token its parent, -1 for a root
        [-1, 0, 1, 2, 3, 2, 5, 6, 0], [-1, 0, 0, 2, 2], [-1, 0, -1, 2, 2, 4]]
    ends = pad_right([[max(k for k in range(len(parents)) if i in ancestry(parents, k)) + 1
                       for i in range(len(parents))] for parents in trees], 9, CPU)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        mask = tree_mask(ends, dtype)
        assert mask.shape == (3, 1, 9, 9) and mask.dtype == dtype, "(R, 1, T, T), model's dtype"
        for b, (i, j) in product(range(3), product(range(9), range(9))):
            size = len(trees[b])
            sees = j in ancestry(trees[b], i) if i < size else size <= j <= i
            wanted = 0.0 if sees else torch.finfo(dtype).min
            assert mask[b, 0, i, j].item() == wanted, (
                f"row {b}: a token sees itself, its ancestors and nothing else, padding only "
                f"padding; so the additive mask of token {i} at {j} should be {wanted}")
        assert mask.isfinite().all(), "minus infinity makes NaN of a row that sees nothing"
