"""Problem 6: the reductions and their bias.

    python -m pytest assignments/tests/test_06_reductions.py
"""

from __future__ import annotations

import pytest
import torch
from course_helpers import tensor, work

REDUCTIONS = ("token", "sequence", "constant")


def weights_of(lengths, reduction, max_new_tokens=5) -> torch.Tensor:
    found = work("grpo.token_weights")(
        torch.tensor(lengths, dtype=torch.long), reduction, max_new_tokens)
    return tensor(found, (sum(lengths),), "one weight a token: the result")


@pytest.mark.parametrize("reduction, wanted", [
    ("token", [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
    ("sequence", [1 / 2, 1 / 6, 1 / 6, 1 / 6]),
    ("constant", [1 / 10] * 4),  # 2 episodes of at most 5 tokens
])
def test_by_hand(reduction, wanted):
    found = weights_of([1, 3], reduction)
    assert found.is_floating_point(), "weights are floats: whole numbers round 1 / N to 0"
    assert found.tolist() == pytest.approx(wanted, abs=1e-6), (
        f"{reduction}, episodes of 1 and 3 tokens, at most 5: by hand {wanted}")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_episode_counts_but_has_no_token(reduction):
    wanted = {"token": [1 / 2] * 2, "sequence": [1 / 4] * 2, "constant": [1 / 10] * 2}[reduction]
    assert weights_of([2, 0], reduction).tolist() == pytest.approx(wanted, abs=1e-6), (
        f"{reduction}: an episode without tokens is one of the E episodes")
    assert torch.isfinite(weights_of([0, 0], reduction)).all(), "nothing was written: no 0 / 0"


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sums(reduction):
    lengths = [4, 1, 2]
    wanted = 7 / 15 if reduction == "constant" else 1  # the share of the allowed tokens
    assert weights_of(lengths, reduction).sum().item() == pytest.approx(wanted, abs=1e-5), (
        f"{reduction}: the weights of the whole batch sum to {wanted:.3f}; do not divide each "
        "micro-batch by its own tokens, or its size changes the gradient")


def test_the_bias_of_each():
    short, long = 1, 4
    ratio = {}
    for reduction in REDUCTIONS:
        found = weights_of([short, long], reduction)
        ratio[reduction] = (found[0] / found[1]).item()
    assert [ratio["token"], ratio["constant"]] == pytest.approx([1, 1], abs=1e-6), (
        "within one batch a token counts the same, however long its episode")
    assert ratio["sequence"] == pytest.approx(4, abs=1e-6), (
        "under 'sequence' a token of an episode four times as long counts a quarter: long wrong "
        "answers are punished less per token")
    longer = weights_of([short, 8], "token")[0] / weights_of([short, long], "token")[0]
    assert longer.item() == pytest.approx(5 / 9, abs=1e-6), (
        "under 'token' a longer neighbour makes everybody's weight smaller")
    same = weights_of([short, 5], "constant")[0] / weights_of([short, long], "constant")[0]
    assert same.item() == pytest.approx(1, abs=1e-6), "under 'constant' no length matters at all"
