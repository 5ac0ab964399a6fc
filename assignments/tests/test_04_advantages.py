"""Problem 4: group advantages. python -m pytest assignments/tests/test_04_advantages.py"""

from __future__ import annotations

import pytest
import torch
from course_helpers import tensor, work


def advantages_of(rewards, normalise=True) -> torch.Tensor:
    rewards = torch.tensor(rewards)
    found = work("grpo.group_advantages")(rewards, normalise)
    return tensor(found, tuple(rewards.shape), "the advantages")


def test_by_hand():
    # mean 0.25; squared differences 0.5625 + 3 * 0.0625 = 0.75; over 3 (ddof 1) 0.25, root 0.5
    found = advantages_of([[1.0, 0.0, 0.0, 0.0]])[0].tolist()
    assert found == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3), (
        "by hand: (1 - 1/4) / 0.5; 1.73 means that the deviation was divided by n, not by n - 1")


def test_without_the_deviation():
    found = advantages_of([[1.0, 0.0, 0.0, 0.0]], normalise=False)[0].tolist()
    assert found == pytest.approx([0.75, -0.25, -0.25, -0.25], abs=1e-6), (
        "normalise=False still divides")


def test_a_group_is_compared_with_itself_alone():
    hard, easy = [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]
    both = advantages_of([hard, easy])
    assert both.abs().min() > 0.1, "different rewards must give advantages different from 0"
    assert both[0].tolist() == pytest.approx(advantages_of([hard])[0].tolist(), abs=1e-6), (
        "a group's advantages depend on the groups beside it: mean and deviation are taken over "
        "dim 1, not over the batch")
    shifted = advantages_of([hard, [reward + 8 for reward in easy]])
    assert torch.allclose(shifted, both, atol=1e-4, rtol=0), (
        "8 added to all rewards of one question changed something: only differences count")
    assert both.sum(1).abs().max() < 1e-5, "the advantages of a group must sum to 0"


@pytest.mark.parametrize("reward", [0.0, 1.0, 2 / 3, 0.8, 0.1])
def test_equal_rewards_give_exactly_zero(reward):
    for normalise in (True, False):
        found = advantages_of([[reward] * 8, [reward] * 8], normalise)
        assert (found == 0).all(), (
            f"eight rewards of {reward:.3g} gave {found.abs().max():.2g}: the mean is off by a "
            "rounding, and a deviation near 0 makes that large; compare the largest reward of the "
            "group with the smallest instead")


@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 0)])
def test_nothing_to_compare_with(shape):
    with pytest.raises(ValueError):
        work("grpo.group_advantages")(torch.ones(shape))
