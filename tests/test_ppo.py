"""Tests of ppo.py: GAE and the value loss by hand, a step against its definition, and it learns.

    python -m pytest tests/test_ppo.py        (about half a minute on two free cores)

Most use a random model of 40 thousand parameters and made-up rewards; the last trains the embedded
model in tiny/ for a few steps.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from canned import (
    LOG,
    PROMPTS,
    CannedAgent,
    FirstTokenAgent,
    distance,
    make_run,
    plain_log_probs,
    random_episodes,
    scaled_down,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import grpo
import ppo
from policy import Policy
from ppo import (
    Batch,
    Critic,
    PPOOptions,
    clipped_value_loss,
    collect,
    explained_variance,
    gae,
    token_rewards,
    train,
    update_critic,
    values_behind,
    whiten,
)
from training.options import EMBEDDED_MODEL
from training.state import TokenMetrics
from trees import Episode, Step, trees_of

# ---- rewards of tokens ---------------------------------------------------------------------------

def test_the_reward_stands_on_the_last_response_token():
    found = token_rewards(torch.tensor([1.0, 0.5, 2.0]), torch.tensor([3, 0, 2]), torch.zeros(5),
                          torch.zeros(5), 0.1)
    assert found.tolist() == [0, 0, 1, 0, 2], (
        "each episode's reward belongs on its last response token (pitfall 15: not on padding, "
        "not on the next episode); an episode without tokens has no place for one")


def test_drifting_from_the_reference_costs_its_kl():
    """Over the policy's own samples the mean cost is beta * KL(policy || reference), exactly."""
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05])
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4])
    k1 = (policy / reference).log()
    cost = -token_rewards(torch.zeros(1), torch.tensor([4]), policy.log(), reference.log(), 0.3)
    assert (policy * cost).sum().item() == pytest.approx(0.3 * (policy * k1).sum().item()), (
        "sign or direction of the KL: the reward must fall by beta * (log p - log p_ref)")
    assert cost.tolist() == pytest.approx((0.3 * k1).tolist(), rel=1e-5), (
        "the mean is right and the tokens are not: k3 in a reward? k1 belongs there (pitfall 10)")


# ---- advantages ----------------------------------------------------------------------------------

def one_episode(rewards, values, last, gamma, lam) -> tuple[list[float], list[float]]:
    advantages, returns = gae(torch.tensor(rewards), torch.tensor(values),
                              torch.tensor([len(rewards)]), torch.tensor([last]), gamma, lam)
    return advantages.tolist(), returns.tolist()


def test_gae_of_an_episode_that_ended_by_hand():
    # d_2 = 1 - 0.6 = 0.4; d_1 = 0 + 0.5 * 0.6 - 0.4 = -0.1; d_0 = 0 + 0.5 * 0.4 - 0.2 = 0
    # A_2 = 0.4; A_1 = -0.1 + 0.25 * 0.4 = 0; A_0 = 0 + 0.25 * 0 = 0
    advantages, returns = one_episode([0.0, 0.0, 1.0], [0.2, 0.4, 0.6], 0.0, 0.5, 0.5)
    assert advantages == pytest.approx([0.0, 0.0, 0.4], abs=1e-6), (
        "gamma 0.5, lambda 0.5, by hand; behind an episode that ended the value is 0")
    assert returns == pytest.approx([0.2, 0.4, 1.0], abs=1e-6), (
        "return = advantage + value, of the advantages before any whitening (pitfall 32)")


def test_gae_of_an_episode_that_was_cut_by_hand():
    # d_1 = 0 + 0.5 * 0.8 - 0.4 = 0; d_0 = 0 + 0.5 * 0.4 - 0.2 = 0
    advantages, returns = one_episode([0.0, 0.0], [0.2, 0.4], 0.8, 0.5, 0.5)
    assert advantages == pytest.approx([0, 0], abs=1e-6), "the value behind the cut is expected"
    assert returns == pytest.approx([0.2, 0.4], abs=1e-6)


def test_padding_is_chosen_away_and_not_multiplied():
    """Behind the shorter episode the padding sees its infinite last value."""
    advantages, _ = gae(torch.zeros(4), torch.zeros(4), torch.tensor([1, 3]),
                        torch.tensor([math.inf, 0.0]), 1.0, 1.0)
    assert advantages.tolist() == [math.inf, 0, 0, 0], (
        f"{advantages.tolist()}: the mask was multiplied with what stands in the padding, and 0 "
        "times infinity is NaN; choose with torch.where (pitfall 13)")


numbers = st.floats(-2, 2, width=32)
episodes_of = st.lists(st.lists(st.tuples(numbers, numbers), max_size=6), min_size=1, max_size=5)


@settings(max_examples=80, derandomize=True)
@given(episodes_of, numbers, st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.sampled_from([0.9, 1.0]))
def test_gae_is_its_definition(episodes, last, lam, gamma):
    wanted = []
    for episode in episodes:
        rewards, values = [r for r, _ in episode], [v for _, v in episode] + [last]
        surprises = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
        wanted += [sum((gamma * lam) ** (k - t) * surprises[k] for k in range(t, len(rewards)))
                   for t in range(len(rewards))]
    flat = torch.tensor([pair for episode in episodes for pair in episode]).reshape(-1, 2)
    lengths = torch.tensor([len(episode) for episode in episodes])
    advantages, returns = gae(flat[:, 0], flat[:, 1], lengths,
                              torch.full((len(episodes),), last), gamma, lam)
    assert advantages.tolist() == pytest.approx(wanted, abs=1e-4), (
        "not the sum of (gamma lambda)^k surprises; does one episode leak into the next, or the "
        "padding of a batch into the shorter ones?")
    assert torch.allclose(returns, advantages + flat[:, 1], atol=1e-5)


def test_whitening():
    found = whiten(torch.tensor([1.0, 2.0, 6.0]))
    assert found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.std().item() == pytest.approx(1, abs=1e-4)
    assert whiten(torch.tensor([3.0])).tolist() == [3.0], "one token has no deviation (pitfall 2)"
    alike = torch.tensor([2 / 3, 2 / 3 + 1e-7, 2 / 3 - 1e-7])
    assert whiten(alike).tolist() == [0, 0, 0], "rounding, divided by itself"
    assert whiten(alike, torch.cat([alike, alike + 1])).abs().min() > 0.5, (
        "alike on this device, but not on all")


# ---- losses --------------------------------------------------------------------------------------

def test_the_policy_loss_is_that_of_grpo():
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(200, generator=draw) for _ in range(3)]
    (mine, metrics), (theirs, wanted) = (
        module.clipped_loss(*inputs, 0.2) for module in (ppo, grpo))
    assert torch.equal(mine, theirs) and metrics.keys() == wanted.keys(), (
        "ppo.py and grpo.py must clip alike: their difference is the baseline alone")


@pytest.mark.parametrize("value, old, returned, gradient, why", [
    (0.3, 0.0, 1.0, -0.7, "inside the clip: the plain squared error"),
    (0.8, 0.0, 1.0, 0.0, "moved far towards the return: no more gradient"),
    (-0.8, 0.0, 1.0, -1.8, "moved far away from the return: pulled back in full"),
    (1.8, 0.0, 1.0, 0.8, "moved past the return and far: pulled back in full"),
])
def test_value_clipping_in_its_four_cases(value, old, returned, gradient, why):
    values = torch.tensor([value], requires_grad=True)
    loss = clipped_value_loss(values, torch.tensor([old]), torch.tensor([returned]), 0.5)
    near = old + min(max(value - old, -0.5), 0.5)
    wanted = max((value - returned) ** 2, (near - returned) ** 2) / 2
    assert loss.item() == pytest.approx(wanted, abs=1e-6), (
        f"{why}; the larger of the two errors counts, or the clip keeps the critic from its target")
    [found] = torch.autograd.grad(loss.sum(), values)
    assert found.item() == pytest.approx(gradient, abs=1e-6), why


def test_without_value_clipping_it_is_half_the_squared_error():
    # The second value came closer than the old one was: a clip of 0 would count the old error.
    loss = clipped_value_loss(torch.tensor([3.0, 1.5]), torch.zeros(2), torch.ones(2), 0.0)
    assert loss.tolist() == [2.0, 0.125], "--value-clip 0 must not clip (pitfall 34)"


def test_explained_variance():
    returns = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((4,), 0.5), returns) == pytest.approx(0)
    assert explained_variance(1 - returns, returns) < 0, "worse than the mean is below 0"
    assert explained_variance(returns, torch.ones(4)) == 0, "returns that are all equal: no 0 / 0"
    assert explained_variance(returns[:1], returns[:1]) == 0, "one token has no variance"


# ---- the critic ----------------------------------------------------------------------------------

def random_critic(trunk: Policy, shared: bool = False) -> Critic:
    critic = Critic(trunk, shared)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(4))
    return critic


def plain_values(critic: Critic, ids: list[int]) -> torch.Tensor:
    """The oracle: one row, the model's own forward pass, the head at every place."""
    states = critic.trunk.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    return critic.head(states[0])[:, 0]


@pytest.mark.parametrize("kind", ["qwen2", "llama", "lfm2"])
def test_values_stand_before_each_token(tiny_policy, kind):
    options = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    policy = tiny_policy(kind, **options)
    assert policy.packs == (kind != "lfm2"), "the test itself: wants packed and plain rows"
    critic = random_critic(policy)
    trees = trees_of(random_episodes(policy, seed=2))
    wanted = [plain_values(critic, step.prompt_ids + step.response_ids)
              [len(step.prompt_ids) - 1:][: len(step.response_ids)] for t in trees for step in t]
    for row_budget, micro_batch_tokens in ((4096, 16384), (12, 1)):
        policy.row_budget, policy.micro_batch_tokens = row_budget, micro_batch_tokens
        error = (critic.values(trees) - torch.cat(wanted)).abs().max().item()
        assert error < 1e-4, (
            f"values are off by {error:.1e}: V belongs to the state *before* a token, where its "
            "logits stand, and in the order of the tokens")


@pytest.mark.parametrize("shared", [False, True])
def test_the_critics_gradient_never_reaches_the_policy(tiny_policy, shared):
    policy = tiny_policy()
    critic = random_critic(policy if shared else tiny_policy(), shared)
    rows = policy.rows(trees_of(random_episodes(policy, seed=3)))
    critic(rows).sum().backward()
    assert all(p.grad is None for p in policy.model.parameters()), (
        "the value loss changes the policy: a shared critic must read its states without gradient")
    assert critic.head.weight.grad.abs().max() > 0, "the critic itself learns nothing"
    in_policy = {id(p) for p in policy.model.parameters()}
    assert not in_policy & {id(p) for p in critic.parameters()}, (
        "the optimizer would step the policy twice")
    if not shared:
        assert sum(p.grad is not None for p in critic.parameters()) > 10, "its trunk is frozen"


def test_what_is_expected_behind_a_cut(tiny_policy):
    critic = random_critic(tiny_policy())
    cut, ended = [[5, 6], [7, 8, 9]], [[5, 6], [7, 0]]
    episodes = [Episode([Step(*ended, True)], 1.0), Episode([Step(*cut, False)], 0.0),
                Episode([Step(*cut, False), Step([5, 11], [12], True)], 0.0), Episode([], 0.0)]
    found = values_behind(critic, episodes)
    wanted = plain_values(critic, cut[0] + cut[1])[-1].item()
    assert found.tolist() == pytest.approx([0, wanted, 0, 0], abs=1e-5), (
        "only an episode whose last step was cut goes on: V of the state behind its last token "
        "(pitfall 30)")
    critic.trunk.positions = 5  # all of them filled, which `fit` allows
    found = values_behind(critic, episodes[1:2])
    wanted = plain_values(critic, (cut[0] + cut[1])[1:])[-1].item()
    assert found.tolist() == pytest.approx([wanted], abs=1e-5), (
        "where no position is left, the first token of the prompt makes room")


# ---- a whole step --------------------------------------------------------------------------------

@pytest.mark.parametrize("bootstrap, temperature", [(False, 0.7), (True, 1.0)])
def test_collect_by_the_definition(tiny_policy, tmp_path, bootstrap, temperature):
    policy, reference = tiny_policy(), tiny_policy(seed=1)
    groups = random_episodes(policy, seed=6, temperature=temperature)
    critic = random_critic(tiny_policy(seed=2))
    run = make_run(policy, reference, CannedAgent(groups), 3, tmp_path / "run", kind=PPOOptions,
                   group_size=4, kl=0.2, gamma=0.9, lam=0.8, bootstrap=bootstrap,
                   temperature=temperature)
    batch = collect(run, critic, range(3), torch.Generator())
    wanted = []
    for episode in (episode for group in groups for episode in group):
        rewards, values = [], []
        for step in episode.steps:
            ref = (plain_log_probs(reference, step, temperature).tolist()
                   if step.response_ids else [])
            rewards += [-0.2 * (old - new) for old, new in zip(step.log_probs, ref)]
            values += plain_values(critic, step.prompt_ids + step.response_ids)[
                len(step.prompt_ids) - 1:].tolist()[: len(step.response_ids)]
        last = episode.steps[-1]
        cut = bootstrap and not last.finished
        values.append(plain_values(critic, last.prompt_ids + last.response_ids)[-1].item()
                      if cut else 0.0)
        if rewards:
            rewards[-1] += episode.reward
        surprises = [r + 0.9 * values[t + 1] - values[t] for t, r in enumerate(rewards)]
        wanted += [sum(0.72 ** (k - t) * surprises[k] for k in range(t, len(rewards)))
                   for t in range(len(rewards))]
    returns = torch.tensor(wanted) + batch.old_values
    assert batch.returns.tolist() == pytest.approx(returns.tolist(), abs=1e-3), (
        "returns come from advantages before whitening (pitfall 32); advantages of whole "
        "episodes: the recursion must go from the first response token of one "
        "step straight to the last of the step before, over nothing that was only read "
        "(pitfall 31), and stop where an episode does; rewards enter as they are (pitfall 33); a "
        "value behind a cut counts with --bootstrap only (pitfall 30); the reference is scored at "
        f"the samples' temperature, here {temperature} (pitfall 21)")
    assert torch.allclose(batch.advantages, whiten(torch.tensor(wanted)), atol=1e-3), (
        "the policy learns from whitened advantages")


def test_what_is_read_between_two_steps_discounts_nothing(tiny_policy, tmp_path):
    """Twenty observation tokens or none: the same advantages, if the critic says the same."""
    found = []
    for observation in ([], list(range(20, 40))):
        steps = [Step([5, 6], [7, 8], True, [-1.0, -1.0]),
                 Step([5, 6, 7, 8, *observation], [9, 2], True, [-1.0, -1.0])]
        critic = Critic(tiny_policy(), False)  # a head of zeros: V is 0 everywhere
        agent = CannedAgent([[Episode(steps, 1.0, dict(LOG))]])
        run = make_run(tiny_policy(), tiny_policy(), agent, 1, tmp_path / "run", kind=PPOOptions,
                       kl=0.0, lam=0.5)
        found.append(collect(run, critic, [0], torch.Generator()).returns.tolist())
    assert found[0] == found[1] == pytest.approx([0.125, 0.25, 0.5, 1.0]), (
        "reward 1 through four response tokens at lambda 0.5; more is a discount for reading")


@pytest.mark.parametrize("name, value", [
    ("kl", 0.1), ("clip", 0.3), ("temperature", 0.7), ("max_grad_norm", 0.01)])
def test_a_step_has_the_gradient_of_the_definition(tiny_policy, tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(ppo, "load_or_stop", lambda *_: tiny_policy(seed=2))
    options = {"kind": PPOOptions, "group_size": 4, "kl": 0.1, "lr": 1e-12, "critic_lr": 1e-12,
               "critic_epochs": 3, "clip": 0.2, "temperature": 1.0, "max_grad_norm": 1e9,
               name: value}
    clip, temperature = options["clip"], options["temperature"]
    groups = random_episodes(tiny_policy(), seed=5, temperature=temperature)
    reference = tiny_policy(seed=1)
    policy = tiny_policy()
    run = make_run(policy, reference, CannedAgent(groups), 3, tmp_path / "run", **options)
    batch = collect(run, Critic(tiny_policy(seed=2), False), range(3), torch.Generator())
    advantages = batch.advantages
    steps = [step for tree in trees_of(groups) for step in tree if step.response_ids]
    log_probs = torch.cat([plain_log_probs(policy, step, temperature) for step in steps])
    ratio = (log_probs - batch.old_log_probs).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    wanted = scaled_down(torch.autograd.grad(-gain.mean(), list(policy.model.parameters())),
                         options["max_grad_norm"])
    for row_budget, micro_batch_tokens in ((4096, 16384), (20, 30)):
        policy = tiny_policy(row_budget=row_budget, micro_batch_tokens=micro_batch_tokens)
        run = make_run(policy, reference, CannedAgent(groups), 3, tmp_path / "run", epochs=2,
                       **options)
        train(run)
        found = [parameter.grad for parameter in policy.model.parameters()]
        assert distance(found, wanted) < 1e-4, (
            f"{name} {value}, rows of {row_budget} and micro-batches of {micro_batch_tokens} "
            f"tokens: the gradient is off by {distance(found, wanted):.1e} of its size. If the "
            f"other cases pass, the option {name} never arrives (pitfall 29). Is the update scored "
            "at the samples' temperature (pitfall 21)? One mean over the tokens of the whole batch "
            "(pitfall 9)? Whitened over all of them? Does the value loss reach the policy? Does "
            "the KL count once, in the reward only (pitfall 12)? Scaled down to max_grad_norm, and "
            "to no constant?")


@pytest.mark.parametrize("name, value", [("value_clip", 0.2), ("max_grad_norm", 0.01)])
def test_the_critic_has_the_gradient_of_the_definition(tiny_policy, tmp_path, name, value):
    options = {"value_clip": 0.5, "max_grad_norm": 1e9, name: value}
    critic = random_critic(tiny_policy(seed=2))
    trees = trees_of(random_episodes(tiny_policy(), seed=5))
    values = torch.cat([plain_values(critic, step.prompt_ids + step.response_ids)
                        [len(step.prompt_ids) - 1:][: len(step.response_ids)]
                        for tree in trees for step in tree])  # (N,)
    # As after earlier updates: the values have moved, to their returns or away from them.
    draw = torch.Generator().manual_seed(0)
    old_values, returns = values.detach() + 2 * torch.rand(2, len(values), generator=draw) - 1
    clip, zeros = options["value_clip"], torch.zeros(len(values))
    clipped = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)  # (N,)
    error = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)  # (N,)
    # What predicts tokens is no part of a value, and has no gradient.
    parameters = list(critic.head.parameters()) + list(critic.model.base_model.parameters())
    wanted = scaled_down(torch.autograd.grad(error.mean() / 2, parameters),
                         options["max_grad_norm"])
    batch = Batch([], zeros, zeros, old_values, zeros, returns, {})
    for row_budget, micro_batch_tokens in ((4096, 16384), (20, 30)):
        policy = tiny_policy(row_budget=row_budget, micro_batch_tokens=micro_batch_tokens)
        run = make_run(policy, tiny_policy(), CannedAgent([]), 3, tmp_path / "run",
                       kind=PPOOptions, critic_epochs=2, **options)
        update_critic(critic, run, batch, policy.rows(trees),
                      torch.optim.SGD(critic.parameters(), lr=0.0), TokenMetrics(len(values)))
        found = [parameter.grad for parameter in parameters]
        assert distance(found, wanted) < 1e-4, (
            f"{name} {value}, rows of {row_budget} and micro-batches of {micro_batch_tokens} "
            f"tokens: the critic's gradient is off by {distance(found, wanted):.1e} of its size. "
            "If only small micro-batches are off, each divides by its own number of tokens "
            f"(pitfall 9). If the other cases pass, the option {name} never arrives (pitfalls 29 "
            "and 34). Are old values and returns looked up by token_index? Is the old gradient "
            "cleared before every update? Scaled down to max_grad_norm, and to no constant?")


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_real_steps_make_good_responses_likelier(tiny_policy, tmp_path, monkeypatch, critic):
    monkeypatch.setattr(ppo, "load_or_stop", lambda *_: tiny_policy())
    policy = tiny_policy()
    run = make_run(policy, tiny_policy(), FirstTokenAgent(), 4, tmp_path / "run", PROMPTS,
                   kind=PPOOptions, steps=8, group_size=8, lr=6e-3, critic_lr=2e-2, kl=0.0,
                   max_grad_norm=1.0, critic=critic, temperature=0.7)
    rows, _ = train(run)
    assert all(row["ratio_error"] < 1e-4 for row in rows), (
        "sampling and scoring differ, perhaps in temperature (pitfall 21)")
    assert abs(rows[0]["kl"]) < 1e-6, (
        "KL above 0 before any update: the reference is another model, or scored at another "
        "temperature (pitfall 21)")
    first, last = rows[0]["reward"], rows[-1]["reward"]
    assert last > first + 0.2, (
        f"odd first tokens are paid and their share went from {first:.2f} to {last:.2f}; a falling "
        "share means the loss has the wrong sign")
    assert rows[0]["explained_variance"] == pytest.approx(0, abs=0.05), "V is 0 before training"
    assert rows[-1]["value_loss"] < 0.7 * rows[0]["value_loss"], "the critic learned nothing"


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_the_critics_epochs_train_the_critic_alone(tiny_policy, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(ppo, "load_or_stop", lambda *_: tiny_policy(seed=2))
    groups = random_episodes(tiny_policy(), seed=5)

    def trained(critic_epochs: int, critic_lr: float) -> tuple[Policy, list[dict]]:
        policy = tiny_policy()
        run = make_run(policy, tiny_policy(seed=1), CannedAgent(groups), 3, tmp_path / "run",
                       kind=PPOOptions, group_size=4, steps=2, critic=kind, kl=0.0,
                       critic_lr=critic_lr, critic_epochs=critic_epochs)
        return policy, train(run)[0]

    # A critic that stands still: whatever moves the policy is its own updates.
    (once, _), (often, _) = trained(1, 1e-12), trained(6, 1e-12)
    assert all(torch.equal(a, b) for a, b in zip(once.model.parameters(),
                                                 often.model.parameters())), (
        "--critic-epochs changes the policy: do the critic's optimizer steps carry a gradient of "
        "the policy that was not cleared?")
    once, often = (trained(n, 1e-2)[1][-1]["value_loss"] for n in (1, 6))
    assert often < 0.9 * once, (
        f"value loss {often:.3f} with six updates a batch, {once:.3f} with one: --critic-epochs "
        "does nothing")


def test_a_group_of_one_learns_too(tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "load_or_stop", lambda *_: tiny_policy())
    policy = tiny_policy()
    before = [parameter.clone() for parameter in policy.model.parameters()]
    run = make_run(policy, tiny_policy(), FirstTokenAgent(), 4, tmp_path / "run", PROMPTS,
                   kind=PPOOptions, steps=1, group_size=1)
    rows, _ = train(run)
    assert math.isfinite(rows[0]["grad_norm"]) and rows[0]["grad_norm"] > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters()))


def test_an_empty_batch_is_finite(tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "load_or_stop", lambda *_: tiny_policy())
    groups = [[Episode([Step([5, 6], [], False)], 1.0, dict(LOG)),
               Episode([Step([5, 6], [7], False, [-1.0])], 1.0, dict(LOG))]]
    run = make_run(tiny_policy(), tiny_policy(), CannedAgent(groups), 1, tmp_path / "run",
                   kind=PPOOptions, bootstrap=True)
    rows, _ = train(run)
    assert all(math.isfinite(value) for value in rows[0].values()), (
        f"not finite: {rows[0]}; a mean over no token at all is 0/0 (pitfall 40)")


# ---- it learns -----------------------------------------------------------------------------------

@pytest.mark.slow
def test_the_embedded_model_learns(tmp_path):
    if not (EMBEDDED_MODEL / "config.json").exists():
        pytest.skip("the embedded model tiny/ is not there; python -m making.manager makes it")
    summary = ppo.main(["--steps", "6", "--questions", "16", "--limit", "38",
                        "--out", str(tmp_path / "run")])
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written["algorithm"] == "ppo" and written["agent"] == "manager"
    assert written["after"]["exact_match"] == summary["after"]["exact_match"]
    before, after = summary["before"]["exact_match"], summary["after"]["exact_match"]
    header, *lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    rewards = [float(line.split(",")[header.split(",").index("reward")]) for line in lines]
    assert sum(rewards[-3:]) > sum(rewards[:3]) or after > before, (
        f"rewards {rewards}, held-out exact match {before:.3f} -> {after:.3f}: nothing was learned")
    assert {"value_loss", "explained_variance", "advantage_std"} <= set(header.split(","))
