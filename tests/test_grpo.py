"""Tests of grpo.py: its pure functions by hand, its gradient against two oracles, and it learns.

    python -m pytest tests/test_grpo.py        (about half a minute on two free cores)

Most use a random model of 40 thousand parameters and made-up rewards; the last trains the embedded
model in tiny/ for a few steps.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from canned import (
    LOG,
    PROMPTS,
    CannedAgent,
    FirstTokenAgent,
    distance,
    make_run,
    metrics_of,
    plain_log_probs,
    random_episodes,
    scaled_down,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import grpo
from grpo import clipped_loss, collect, group_advantages, kl_k3, token_weights, train
from policy import Policy
from training.options import EMBEDDED_MODEL
from trees import Episode, Step, trees_of

# ---- advantages ----------------------------------------------------------------------------------

def test_advantages_by_hand():
    # mean 0.25; squared differences 0.5625 + 3 * 0.0625 = 0.75; over 3 (ddof 1) 0.25, root 0.5
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))[0].tolist()
    assert found == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3), (
        "by hand: (1 - 1/4) / 0.5; 1.73 means the deviation was divided by n, not n - 1; a million "
        "that it was one of the other rewards alone, which are equal (pitfall 5); -1.5 the wrong "
        "sign, which makes the best sample rarer")
    plain = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), normalise=False)[0].tolist()
    assert plain == pytest.approx([0.75, -0.25, -0.25, -0.25]), "normalise=False still divides"


@pytest.mark.parametrize("reward", [0.0, 1.0, 2 / 3, 0.8, 0.1, 1e6 / 3])
def test_equal_rewards_give_exactly_zero(reward):
    for normalise in (True, False):
        found = group_advantages(torch.full((2, 8), reward), normalise)
        assert (found == 0).all(), (
            f"eight rewards of {reward} gave {found.abs().max():.2g}: rounding of the mean divided "
            "by a deviation near 0; compare the largest with the smallest reward instead")


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=4, max_size=4),
                min_size=1, max_size=4), st.sampled_from([-2.0, 0.5, 8.0]))
def test_a_group_is_compared_with_itself_alone(rewards, shift):
    rewards = torch.tensor(rewards)
    found = group_advantages(rewards)
    shifted = rewards.clone()
    shifted[0] += shift
    assert torch.equal(group_advantages(shifted), found), (
        "a constant added to the rewards of one group changed advantages: the mean must be the "
        "group's own, not the batch's")
    for group, row in zip(rewards, found):
        assert torch.equal(group_advantages(group[None])[0], row), (
            "a group's advantages depend on the groups beside it: normalise per row")
    assert found.sum(1).abs().max() < 1e-5, "the advantages of a group do not sum to 0"


def test_groups_of_one_and_flat_rewards_are_refused():
    for rewards in (torch.ones(4, 1), torch.ones(4), torch.ones(2, 0)):
        try:
            found = group_advantages(rewards)
        except ValueError as error:
            assert "at least 2" in str(error)
        else:
            pytest.fail(f"rewards of shape {tuple(rewards.shape)} gave {found.tolist()}: a group "
                        "of one has no deviation, and one NaN spoils every weight (pitfall 2)")


# ---- loss ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("advantage, ratio, slope", [
    (2.0, 1.5, 0.0),  # good and already likely enough: no more
    (2.0, 0.5, -2.0),  # good and less likely than before: push up
    (-2.0, 1.5, 2.0),  # bad and more likely than before: push down
    (-2.0, 0.5, 0.0),  # bad and already unlikely: no more
])
def test_clip_quadrants(advantage, ratio, slope):
    log_probs = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, metrics = clipped_loss(log_probs, torch.zeros(1), torch.tensor([advantage]), 0.2)
    loss.sum().backward()
    # d(-ratio * A) / d(log ratio) = -ratio * A where it is not clipped
    assert log_probs.grad.item() == pytest.approx(slope * ratio, abs=1e-6), (
        f"advantage {advantage}, ratio {ratio}: the gradient must be {slope * ratio}; for a "
        "negative advantage too the *smaller* of clipped and unclipped counts")
    bound = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert loss.item() == pytest.approx(-bound), "the loss is not minus the smaller surrogate"
    assert metrics["clip_fraction"].item() == (slope == 0), (
        "clip_fraction must count the tokens whose gradient the clip removed, and no others")
    assert metrics["ratio_error"].item() == pytest.approx(0.5), "ratio_error is not |ratio - 1|"


# ---- KL ------------------------------------------------------------------------------------------

POLICY = torch.tensor([0.7, 0.2, 0.05, 0.05], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)


def test_the_expected_k3_is_the_kl_from_policy_to_reference():
    k3 = kl_k3(POLICY.log(), REFERENCE.log())
    exact = (POLICY * (POLICY / REFERENCE).log()).sum().item()  # 1.10; the other way round: 1.09
    other = (REFERENCE * (REFERENCE / POLICY).log()).sum().item()
    assert abs(exact - other) > 0.005, "the test itself: both directions agree"
    assert (POLICY * k3).sum().item() == pytest.approx(exact, abs=1e-9), (
        f"over samples of the policy k3 must average KL(policy || reference) = {exact:.3f}: "
        "the ratio is reference over policy, not policy over reference")
    assert (k3 >= 0).all() and k3[0] > 0, "k3 is never negative; log r alone (k1) is"


def test_k3_vanishes_with_its_gradient_where_the_two_agree():
    log_probs = REFERENCE.log().requires_grad_()
    k3 = kl_k3(log_probs, REFERENCE.log())
    k3.sum().backward()
    assert (k3 == 0).all() and (log_probs.grad == 0).all(), (
        "the KL pulls a policy that never moved; k1 in a loss does: its gradient is 1 everywhere")


@pytest.mark.parametrize("ratio", [2.0, 13.0, 14.0, 100.0, 10_000.0])
def test_k3_pulls_hardest_what_drifted_furthest(ratio):
    """The gradient is 1 - p_ref / p, however large. verl 0.9.1 clamps k3 at 10, and pulls no token
    beyond a ratio of 13 (findings/verl_kl_clamp.sh)."""
    log_probs = torch.zeros(1, dtype=torch.double, requires_grad=True)
    k3 = kl_k3(log_probs, torch.tensor([math.log(ratio)], dtype=torch.double))
    k3.sum().backward()
    assert k3.item() == pytest.approx(ratio - 1 - math.log(ratio))
    assert log_probs.grad.item() == pytest.approx(1 - ratio), (
        "a clamp of the KL has no gradient beyond it: what drifted furthest is left where it is")


def test_k3_pulls_towards_the_reference():
    log_probs = POLICY.log().requires_grad_()
    kl_k3(log_probs, REFERENCE.log()).sum().backward()
    too_likely = POLICY > REFERENCE
    assert (log_probs.grad[too_likely] > 0).all() and (log_probs.grad[~too_likely] < 0).all(), (
        "descending this loss moves the policy away from the reference: a sign is wrong, or it is "
        "k1, whose gradient is the same for every token (pitfall 10)")


# ---- reductions ----------------------------------------------------------------------------------

def test_token_weights_by_hand():
    lengths = torch.tensor([1, 3, 0])
    by_hand = {"token": [1 / 4] * 4, "sequence": [1 / 3, 1 / 9, 1 / 9, 1 / 9],
               "constant": [1 / 15] * 4}  # 3 episodes x 5 tokens at most
    for reduction, weights in by_hand.items():
        found = token_weights(lengths, reduction, 5).tolist()
        assert found == pytest.approx(weights), (
            f"{reduction}: by hand {weights}; under 'token' a token of a long episode weighs as "
            "much as any other (pitfall 8); an empty episode is an episode without a token")
    assert token_weights(torch.tensor([0, 0]), "token", 5).tolist() == [], "nothing was written"
    assert token_weights(torch.tensor([0, 0]), "sequence", 5).tolist() == [], "nothing was written"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_token_weights_sums(lengths):
    total = {r: token_weights(torch.tensor(lengths), r, 40).sum().item()
             for r in ("token", "sequence", "constant")}
    assert total["token"] == pytest.approx(1, abs=1e-5), "token weights must sum to 1"
    assert total["sequence"] == pytest.approx(1, abs=1e-5), "sequence weights must sum to 1"
    used = sum(lengths) / (40 * len(lengths))  # the share of the allowed tokens that was written
    assert total["constant"] == pytest.approx(used, abs=1e-5), "constant weights depend on lengths"


# ---- the gradient of a whole step ----------------------------------------------------------------

def hand_written_gradient(policy: Policy, reference: Policy, groups, reduction: str, kl: float,
                          clip: float, temperature: float, normalise: bool,
                          max_grad_norm: float) -> list[torch.Tensor]:
    """The gradient of a step from the definitions, episode by episode and without any batching."""
    episodes = [episode for group in groups for episode in group]
    n_tokens = sum(len(step.response_ids) for e in episodes for step in e.steps)
    loss = torch.zeros(())
    for group in groups:
        rewards = [episode.reward for episode in group]
        mean = sum(rewards) / len(rewards)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
        for episode in group:
            advantage = (episode.reward - mean) / (deviation + 1e-4 if normalise else 1)
            length = sum(len(step.response_ids) for step in episode.steps)
            weight = {"token": 1 / n_tokens, "sequence": 1 / (len(episodes) * length),
                      "constant": 1 / (len(episodes) * 6)}[reduction]
            for step in episode.steps:
                log_probs = plain_log_probs(policy, step, temperature)
                with torch.no_grad():
                    ref_log_probs = plain_log_probs(reference, step, temperature)
                for new, old, ref in zip(log_probs, step.log_probs, ref_log_probs):
                    ratio = (new - old).exp()
                    clipped = ratio.clamp(1 - clip, 1 + clip)
                    gain = min(ratio * advantage, clipped * advantage)
                    k3 = (ref - new).exp() - 1 - (ref - new)
                    loss = loss + weight * (kl * k3 - gain)
    gradient = torch.autograd.grad(loss, list(policy.model.parameters()))
    return scaled_down(gradient, max_grad_norm)


@pytest.mark.parametrize("name, value", [
    ("reduction", "token"), ("reduction", "sequence"), ("reduction", "constant"),
    ("clip", 0.3), ("temperature", 0.7), ("normalise", False), ("max_grad_norm", 0.01)])
def test_a_step_has_the_gradient_of_the_definition(tiny_policy, tmp_path, name, value):
    options = {"reduction": "token", "kl": 0.1, "clip": 0.2, "temperature": 1.0, "normalise": True,
               "max_grad_norm": 1e9, name: value}
    reference = tiny_policy(seed=1)
    groups = random_episodes(tiny_policy(), seed=5, temperature=options["temperature"])
    wanted = hand_written_gradient(tiny_policy(), reference, groups, **options)
    for row_budget, micro_batch_tokens in ((4096, 16384), (20, 30)):
        policy = tiny_policy(row_budget=row_budget, micro_batch_tokens=micro_batch_tokens)
        # At this rate nothing moves: the gradient left behind is that of the last of two updates,
        # and each must be the same.
        run = make_run(policy, reference, CannedAgent(groups), 3, tmp_path / "run", group_size=4,
                       lr=1e-12, epochs=2, **options)
        train(run)
        found = [parameter.grad for parameter in policy.model.parameters()]
        assert distance(found, wanted) < 1e-4, (
            f"{name} {value}, rows of {row_budget} and micro-batches of {micro_batch_tokens} "
            f"tokens: the gradient is off by {distance(found, wanted):.1e} of its size. If the "
            f"other cases pass, the option {name} never arrives (pitfall 29). Are reference and "
            "update scored at the samples' temperature (pitfall 21)? Does each micro-batch divide "
            "by its own number of tokens (pitfall 9)? Are old log-probs, advantages and weights "
            "looked up by token_index? Was an end id masked, or a cut response (pitfall 7)? Does "
            "the KL count once, in the loss only (pitfall 12)? Is each token's ratio its own "
            "(pitfall 25)? Is the old gradient cleared before every update? Scaled down to "
            "max_grad_norm, and to no constant?")


def test_the_expected_gradient_is_the_policy_gradient(tiny_policy):
    """All responses of at most two tokens over a vocabulary of four, each weighed by its chance."""
    policy = tiny_policy(vocab_size=4)  # ids 0 and 2 end a response
    prompt = [1, 3, 1]
    responses = [[0], [2], *([a, b] for a in (1, 3) for b in range(4))]
    steps = [Step(prompt, response, response[-1] in (0, 2)) for response in responses]
    rewards = torch.tensor([0.3, 0.0, 1.0, 0.2, 0.0, 0.9, 0.1, 0.7, 0.0, 1.0])
    parameters = list(policy.model.parameters())

    chances = torch.stack([plain_log_probs(policy, step).sum() for step in steps]).exp()
    assert chances.sum().item() == pytest.approx(1, abs=1e-5), "the test itself: some are missing"
    exact = torch.autograd.grad((chances * rewards).sum(), parameters)

    # Every group of two that could be sampled, with its chance.
    pairs = list(itertools.product(range(len(steps)), repeat=2))
    chance = torch.stack([chances[i] * chances[j] for i, j in pairs]).detach()  # (100,)
    advantages = group_advantages(torch.stack([rewards[[i, j]] for i, j in pairs]), normalise=False)
    lengths = torch.tensor([[len(responses[i]), len(responses[j])] for i, j in pairs])
    log_probs = policy.token_log_probs([[steps[i], steps[j]] for i, j in pairs])  # (N,)
    per_token, _ = clipped_loss(log_probs, log_probs.detach(),
                                advantages.flatten().repeat_interleave(lengths.flatten()), 0.2)
    weights = torch.cat([c * token_weights(pair, "constant", 2)
                         for c, pair in zip(chance, lengths)])
    found = torch.autograd.grad((weights * per_token).sum(), parameters)
    # A sample is compared with a mean that it is part of: (1 - 1/G) of the gradient of the summed
    # reward is left; the constant reduction divides by G episodes and 2 tokens. G = 2.
    scale = -(1 - 1 / 2) / 2
    assert distance(found, [scale * g for g in exact]) < 1e-3, (
        "the expected GRPO gradient at ratio 1 is not the gradient of the expected reward: look at "
        "the sign of the loss, the baseline, the end token, and which token each weight goes to")


# ---- real steps with a random model --------------------------------------------------------------

def test_two_real_steps(tiny_policy, tmp_path):
    policy, reference = tiny_policy(), tiny_policy()
    before = [parameter.clone() for parameter in policy.model.parameters()]
    run = make_run(policy, reference, FirstTokenAgent(), 4, tmp_path / "run", PROMPTS, steps=2,
                   epochs=2, group_size=8, temperature=0.7, kl=0.01)
    rows, _ = train(run)
    for row in rows:
        assert row["ratio_error"] < 1e-4, (
            f"step {row['step']}: a ratio is {row['ratio_error']:.1e} off 1 before any update; "
            "sampling and scoring differ in temperature, mask, positions or dropout")
    assert abs(rows[0]["kl"]) < 1e-6, (
        "KL above 0 before any update: the reference is another model, or scored at another "
        "temperature (pitfall 21)")
    assert rows[0]["grad_norm"] > 0 and 0 < rows[0]["reward"] < 1, "the test itself: no signal"
    assert all(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters())), (
        "some weights did not move in an optimizer step (pitfall 27)")
    assert [row["lr"] for row in rows] == pytest.approx([0.25e-3, 0.5e-3]), (
        "the rate of 1e-3 does not warm up by a quarter a step: is schedule.step() called once a "
        "step, whatever the number of epochs?")
    assert rows[1]["kl"] > 1e-6, "the KL stayed 0: does the reference share the policy's weights?"
    for a, b in zip(reference.model.parameters(), tiny_policy().model.parameters()):
        assert torch.equal(a, b), "the reference was trained too"


def test_clip_fraction_is_that_of_the_last_epoch(tiny_policy, tmp_path):
    for epochs in (1, 2):
        run = make_run(tiny_policy(), tiny_policy(), FirstTokenAgent(), 4, tmp_path / f"{epochs}",
                       PROMPTS, steps=2, epochs=epochs, group_size=8, lr=5e-2)
        clipped = max(row["clip_fraction"] for row in train(run)[0])
        assert (clipped > 0) == (epochs > 1), (
            f"{epochs} epochs, clip_fraction {clipped}: nothing is clipped before an update, and "
            "what a later epoch clips has to be counted")


def test_the_end_token_is_trained_though_it_pads(tiny_policy, tmp_path):
    policy = tiny_policy()
    assert policy.tokenizer.pad_token_id in policy.end_ids, "the test itself: pad is no end id"
    step = Step([5, 6], [7, 0], True, [-1.0, -1.0])
    # Rewards may be whole numbers, as exact match is.
    agent = CannedAgent([[Episode([step], reward, dict(LOG)) for reward in (1, 0)]])
    run = make_run(policy, tiny_policy(), agent, 1, tmp_path / "run")
    batch = collect(run, [0], torch.Generator())
    assert len(batch.advantages) == len(batch.weights) == 4, (
        "an end token that is also the padding was dropped; masks must come from lengths, or the "
        "model never learns to stop")
    targets = [t for row in policy.rows(trees_of(batch.groups)) for t in row.targets]
    assert targets == [7, 0, 7, 0], f"the scored tokens are {targets}, not [7, 0, 7, 0]"


def test_groups_without_signal_are_left_out_of_the_update_only(tiny_policy, tmp_path):
    groups = random_episodes(tiny_policy(), seed=5)
    for episode in groups[1]:
        episode.reward = 2 / 3
    gradients = {}
    for name, chosen, option in (("drop", groups, "drop"), ("keep", groups, "keep"),
                                 ("alone", [groups[0], groups[2]], "keep")):
        policy = tiny_policy()
        run = make_run(policy, tiny_policy(seed=1), CannedAgent(chosen), len(chosen),
                       tmp_path / "run", group_size=4, kl=0.1, lr=1e-12, no_signal=option)
        batch = collect(run, range(len(chosen)), torch.Generator())
        assert batch.all_groups == chosen, "all groups are logged"
        rows, _ = train(run)
        assert rows[0]["no_signal"] == (0 if name == "alone" else pytest.approx(1 / 3))
        gradients[name] = [parameter.grad for parameter in policy.model.parameters()]
    assert distance(gradients["drop"], gradients["alone"]) < 1e-5, (
        "a dropped group still counts: in the loss, or in the number of tokens")
    assert distance(gradients["keep"], gradients["alone"]) > 1e-2, (
        "keep dropped it too: the KL of a group without signal holds what is right (pitfall 6)")


def test_an_empty_or_signal_free_batch_is_finite(tiny_policy, tmp_path):
    groups = [[Episode([Step([5, 6], [], False)], 1.0, dict(LOG)),
               Episode([Step([5, 6], [7], False, [-1.0])], 1.0, dict(LOG))]]
    run = make_run(tiny_policy(), tiny_policy(), CannedAgent(groups), 1, tmp_path / "run", kl=0.0)
    rows, _ = train(run)
    assert rows[0]["no_signal"] == 1, "all rewards are equal: no_signal must be 1"
    assert all(math.isfinite(value) for value in rows[0].values()), (
        f"not finite: {rows[0]}; a mean over no token at all is 0/0 (pitfall 40)")
    assert rows[0]["grad_norm"] == 0, "equal rewards and no KL must leave no gradient"


# ---- it learns -----------------------------------------------------------------------------------

SUMMARY_KEYS = {"algorithm", "agent", "model", "data", "steps", "seconds", "tokens_per_second",
                "peak_memory_bytes", "train_questions", "test_questions", "before", "after",
                "what_changed"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> tuple[Path, dict]:
    """A short run on the embedded model: its folder and what main returned."""
    if not (EMBEDDED_MODEL / "config.json").exists():
        pytest.skip("the embedded model tiny/ is not there; python -m making.manager makes it")
    folder = tmp_path_factory.mktemp("learned") / "run"
    summary = grpo.main(["--steps", "4", "--questions", "8", "--train-questions", "38", "--limit",
                         "8", "--seed", "0", "--out", str(folder)])
    return folder, summary


def test_the_embedded_model_learns(learned):
    folder, summary = learned
    rewards = [float(row["reward"]) for row in metrics_of(folder)]
    before, after = summary["before"]["exact_match"], summary["after"]["exact_match"]
    assert sum(rewards[-2:]) > sum(rewards[:2]) or after > before, (
        f"rewards {rewards}, held-out exact match {before:.3f} -> {after:.3f}: nothing was learned")
    assert after >= before - 0.1, f"held-out exact match fell from {before:.3f} to {after:.3f}"


def test_summary(learned):
    folder, returned = learned
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == SUMMARY_KEYS, "summary.json has other keys than others read"
    assert summary["algorithm"] == "grpo" and summary["agent"] == "manager"
    assert summary["before"]["exact_match"] == returned["before"]["exact_match"], (
        "main must return what summary.json holds")
    for when in ("before", "after"):
        for scores in (summary[when], *summary[when]["by_category"].values()):
            for name in ("exact_match", "f1", "bleu1"):
                assert 0 <= scores[name] <= 1, f"{when}, {name}: {scores[name]} is not in 0..1"
        assert summary[when]["count"] == summary["test_questions"] == 8, "--limit 8 was not kept"
        operations = [summary[when][name] for name in ("add", "update", "delete", "noop")]
        assert sum(operations) + summary[when]["invalid"] >= 1, (
            f"{operations}: each decision holds an operation, or something unusable")
        assert set(summary[when]["by_category"]) <= set("1234"), "categories are LoCoMo's numbers"
    assert summary["tokens_per_second"] > 0 and summary["peak_memory_bytes"] > 10 ** 8
    assert summary["train_questions"] == 38, "--train-questions 38 was not kept"


def test_run_folder(learned):
    folder, _ = learned
    rows = metrics_of(folder)
    assert [row["step"] for row in rows] == [str(n) for n in range(1, 5)], "one row a training step"
    for row in rows:
        assert None not in row and None not in row.values(), "a row has more or fewer columns"
        assert all(math.isfinite(float(value)) for value in row.values()), f"not finite: {row}"
        assert float(row["ratio_error"]) < 1e-4, f"ratios off by {row['ratio_error']} when fresh"
    assert float(rows[-1]["kl"]) > 0, (
        "the KL stayed 0: the reference shares the weights that learn (pitfall 28)")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert samples and {"step", "group", "reward", "prompt", "response"} <= set(samples[0])
    assert json.loads((folder / "config.json").read_text())["steps"] == 4, "not what was run"
    assert (folder / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", "curve.png is no PNG"


def test_checkpoint_is_an_ordinary_folder_with_other_weights(learned):
    folder, _ = learned
    trained = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters())]
    assert all(moved), "the checkpoint holds weights that training did not change"
