"""Problem 8: generalised advantage estimation. python -m pytest assignments/tests/test_08_gae.py"""

from __future__ import annotations

import pytest
import torch
from course_helpers import tensor, work


def gae(rewards, values, lengths, last_values, gamma, lam) -> tuple[list[float], list[float]]:
    n = (len(rewards),)
    advantages, returns = work("ppo.gae")(
        torch.tensor(rewards), torch.tensor(values), torch.tensor(lengths),
        torch.tensor(last_values), gamma, lam)
    return (tensor(advantages, n, "the advantages").tolist(),
            tensor(returns, n, "the returns").tolist())


def test_three_tokens_by_hand():
    # surprises, from the end: 1 - 0.8 = 0.2; 0 + 0.9 * 0.8 - 0.5 = 0.22; 0.9 * 0.5 - 0.4 = 0.05
    # then 0.2; 0.22 + 0.72 * 0.2 = 0.364; 0.05 + 0.72 * 0.364 = 0.31208
    advantages, returns = gae([0.0, 0.0, 1.0], [0.4, 0.5, 0.8], [3], [0.0], 0.9, 0.8)
    assert advantages == pytest.approx([0.31208, 0.364, 0.2], abs=1e-5), (
        "gamma 0.9, lambda 0.8: the recursion runs from the end, with gamma * lambda; the surprise "
        "takes gamma times the value *behind* the token minus the value before it")
    assert returns == pytest.approx([0.71208, 0.864, 1.0], abs=1e-5), (
        "what the critic should have expected is advantage + value")


def test_episodes_do_not_leak_into_each_other():
    first, second = ([0.0, 1.0], [0.5, 0.25]), ([0.0, 0.0, 0.0, -2.0], [0.1, 0.2, 0.3, 0.4])
    together, _ = gae(first[0] + second[0], first[1] + second[1], [2, 4], [0.0, 0.0], 0.9, 0.8)
    alone = [gae(rewards, values, [len(rewards)], [0.0], 0.9, 0.8)[0]
             for rewards, values in (first, second)]
    assert together == pytest.approx(alone[0] + alone[1], abs=1e-5), (
        "two episodes laid end to end got other advantages than each alone: the recursion ran on "
        "from the first token of one episode into the last of the episode before")


def test_a_cut_episode_goes_on():
    # cut after one token, and 0.6 was expected behind it: 0 + 0.5 * 0.6 - 0.2 = 0.1
    advantages, _ = gae([0.0, 0.0, 1.0], [0.2, 0.3, 0.4], [1, 2], [0.6, 0.0], 0.5, 1.0)
    assert advantages == pytest.approx([0.1, 0.2, 0.6], abs=1e-5), (
        "last_values is what was expected behind the last token of *each* episode; with a longer "
        "neighbour it must still stand right behind this episode's own end")


def test_lambda_one_is_the_return_minus_the_value():
    advantages, returns = gae([1.0, 0.0, 2.0], [0.3, 0.6, 0.1], [3], [0.0], 1.0, 1.0)
    assert returns == pytest.approx([3.0, 2.0, 2.0], abs=1e-5), "undiscounted rewards to come"
    assert advantages == pytest.approx([2.7, 1.4, 1.9], abs=1e-5), "return minus value"


def test_lambda_zero_is_one_steps_surprise():
    advantages, _ = gae([1.0, 0.0, 2.0], [0.3, 0.6, 0.1], [3], [0.5], 1.0, 0.0)
    assert advantages == pytest.approx([1.3, -0.5, 2.4], abs=1e-5), (
        "reward + value behind - value before, and nothing of what comes later")


def test_empty_episodes_are_nobody():
    advantages, _ = gae([0.0, 1.0], [0.5, 0.25], [0, 2, 0], [9.0, 0.0, 9.0], 1.0, 1.0)
    assert advantages == pytest.approx([0.5, 0.75], abs=1e-5), (
        "an episode without tokens has no advantage, and what is expected behind it is nobody's")


def test_the_critic_gets_its_target_before_whitening():
    advantages, returns = gae([0.0, 10.0], [1.0, 2.0], [2], [0.0], 1.0, 0.95)
    values = [r - a for r, a in zip(returns, advantages)]
    assert values == pytest.approx([1.0, 2.0], abs=1e-5), (
        "return - advantage is not the value: do not whiten here, the loop does that later")
    assert max(advantages) == pytest.approx(8.6, abs=1e-4), "advantages are not whitened here"
