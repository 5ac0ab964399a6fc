"""Problem 5: the clip. python -m pytest assignments/tests/test_05_clip.py"""

from __future__ import annotations

import math

import pytest
import torch
from course_helpers import tensor, work

# The two modules are read on their own, so both hold the function.
both = pytest.mark.parametrize("module", ["grpo", "ppo"])


def run_loss(module, log_probs, old_log_probs, advantages, clip=0.2):
    """Losses, metrics and the gradient of the summed loss, as lists."""
    log_probs = torch.tensor(log_probs, requires_grad=True)
    shape = tuple(log_probs.shape)
    losses, metrics = work(f"{module}.clipped_loss")(
        log_probs, torch.tensor(old_log_probs), torch.tensor(advantages), clip)
    tensor(losses, shape, "the loss per token, not yet averaged,").sum().backward()
    metrics = {name: tensor(value, shape, name).tolist() for name, value in metrics.items()}
    return losses.tolist(), metrics, log_probs.grad.tolist()


@both
@pytest.mark.parametrize("advantage, ratio, slope", [
    (2.0, 1.5, 0.0),  # good and already likelier than the clip allows: no more
    (2.0, 0.5, -2.0),  # good and less likely than before: push up
    (-2.0, 1.5, 2.0),  # bad and likelier than before: push down
    (-2.0, 0.5, 0.0),  # bad and already unlikely: no more
])
def test_the_four_quadrants(module, advantage, ratio, slope):
    losses, metrics, gradient = run_loss(module, [math.log(ratio)], [0.0], [advantage])
    # d(-ratio * A) / d(log ratio) = -ratio * A where nothing is clipped
    assert gradient == pytest.approx([slope * ratio], abs=1e-5), (
        f"advantage {advantage}, ratio {ratio}: the gradient must be {slope * ratio}. The smaller "
        "of the two surrogates counts, for negative advantages too; and the ratio is clipped "
        "before it is multiplied")
    bound = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert losses == pytest.approx([-bound], abs=1e-5), "the loss is minus the smaller surrogate"
    assert metrics["clip_fraction"] == [float(slope == 0)], (
        "clip_fraction is 1 where the clip removed the gradient and 0 elsewhere")
    assert metrics["ratio_error"] == pytest.approx([0.5], abs=1e-5), "ratio_error is |ratio - 1|"


@both
def test_fresh_samples_give_the_plain_policy_gradient(module):
    old = [-1.0, -2.0, -0.1]
    losses, metrics, gradient = run_loss(module, old, old, [1.5, -0.5, 0.0])
    assert gradient == pytest.approx([-1.5, 0.5, 0.0], abs=1e-6), (
        "at ratio 1 the gradient is minus the advantage (REINFORCE): a plus means the loss is "
        "turned round, and 0 that the log-probs were detached")
    assert losses == pytest.approx([-1.5, 0.5, 0.0], abs=1e-6), (
        "at ratio 1 the loss is minus the advantage")
    assert metrics["clip_fraction"] == [0.0] * 3 and metrics["ratio_error"] == [0.0] * 3


@both
def test_tokens_are_clipped_one_by_one(module):
    losses, _, gradient = run_loss(module, [math.log(3.0), math.log(1 / 3)], [0.0, 0.0],
                                   [1.0, 1.0])
    assert losses == pytest.approx([-1.2, -1 / 3], abs=1e-5) and gradient[0] == 0, (
        "one ratio for the whole response (here 1) is GSPO; this ratio is per token")


@both
def test_the_width_of_the_clip(module):
    losses, metrics, _ = run_loss(module, [0.1, 0.1], [0.0, 0.0], [1.0, 1.0], clip=0.05)
    assert losses == pytest.approx([-1.05] * 2, abs=1e-5), "the bounds are 1 - clip and 1 + clip"


@both
def test_metrics_carry_no_gradient(module):
    log_probs = torch.tensor([0.3], requires_grad=True)
    _, metrics = work(f"{module}.clipped_loss")(log_probs, torch.zeros(1), torch.ones(1), 0.2)
    assert set(metrics) == {"clip_fraction", "ratio_error"}, "the names of the columns in the log"
    assert not any(value.requires_grad for value in metrics.values()), (
        "a metric that is kept with its gradient keeps the whole graph alive")
