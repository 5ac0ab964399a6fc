"""Problem 7: estimating the KL. python -m pytest assignments/tests/test_07_kl.py"""

from __future__ import annotations

import pytest
import torch
from course_helpers import tensor, work

POLICY = torch.tensor([0.7, 0.2, 0.05, 0.05], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
KL = (POLICY * (POLICY / REFERENCE).log()).sum().item()  # KL(policy || reference), 1.108 nats


def k3(log_probs, ref_log_probs) -> torch.Tensor:
    found = work("grpo.kl_k3")(log_probs, ref_log_probs)
    return tensor(found, tuple(log_probs.shape), "k3 per token")


def token_rewards(rewards, lengths, log_probs, ref_log_probs, beta) -> list[float]:
    log_probs = torch.as_tensor(log_probs)
    found = work("ppo.token_rewards")(torch.tensor(rewards), torch.tensor(lengths), log_probs,
                                      torch.as_tensor(ref_log_probs), beta)
    return tensor(found, tuple(log_probs.shape), "the reward per token").tolist()


# ---- k3, for GRPO's loss -------------------------------------------------------------------------


def test_k3_averages_the_kl():
    found = (POLICY * k3(POLICY.log(), REFERENCE.log())).sum().item()
    assert found == pytest.approx(KL, abs=1e-6), (
        f"over samples of the policy k3 must average KL(policy || reference) = {KL:.3f}; here it "
        f"averages {found:.3f}. Is the ratio reference over policy? A formula the other way round "
        "passes every check near 0 and is off by far elsewhere")


def test_k3_is_never_negative():
    found = k3(POLICY.log(), REFERENCE.log())
    assert (found >= 0).all() and (found > 0).all(), "log p - log p_ref alone (k1) is negative too"


def test_k3_is_zero_where_both_agree():
    log_probs = REFERENCE.log().requires_grad_()
    found = k3(log_probs, REFERENCE.log())
    found.sum().backward()
    assert (found == 0).all() and (log_probs.grad == 0).all(), (
        "a policy that never moved is pulled somewhere")


def test_k3_pulls_towards_the_reference():
    log_probs = POLICY.log().requires_grad_()
    k3(log_probs, REFERENCE.log()).sum().backward()
    too_likely = POLICY > REFERENCE
    assert (log_probs.grad[too_likely] > 0).all() and (log_probs.grad[~too_likely] < 0).all(), (
        "descending this loss moves the policy away from the reference")


# ---- k1, in PPO's reward -------------------------------------------------------------------------


def test_the_reward_stands_on_the_last_token():
    zeros = torch.zeros(6)
    found = token_rewards([1.0, 0.5], [2, 4], zeros, zeros, 0.1)
    assert found == pytest.approx([0, 1, 0, 0, 0, 0.5], abs=1e-6), (
        "two episodes of 2 and 4 tokens: their rewards belong to tokens 1 and 5, counted from 0; "
        "one place later and they fall to the next episode, or out of the batch")


def test_an_episode_without_tokens_has_no_place_for_its_reward():
    zeros = torch.zeros(3)
    found = token_rewards([1.0, 7.0, 0.5], [2, 0, 1], zeros, zeros, 0.1)
    assert found == pytest.approx([0, 1, 0.5], abs=1e-6), "its reward went to a neighbour's token"


def test_drifting_costs():
    found = token_rewards([0.0], [4], POLICY.log().float(), REFERENCE.log().float(), 0.5)
    cost = -sum(p * earned for p, earned in zip(POLICY.tolist(), found))
    assert cost == pytest.approx(0.5 * KL, abs=1e-4), (
        f"on average a token must pay beta * KL = {0.5 * KL:.3f}; it paid {cost:.3f}. A negative "
        "number means that drifting away from the reference is rewarded")


def test_every_token_pays_its_own_k1():
    found = token_rewards([1.0], [2], [-1.0, -3.0], [-2.0, -2.0], 0.1)
    assert found == pytest.approx([-0.1, 1.1], abs=1e-6), (
        "beta * (log p - log p_ref) is taken from each token, the last one included; k1 may be "
        "negative and is not clamped")
