"""Problem 12: the loop. python -m pytest assignments/tests/test_12_loop.py"""

from __future__ import annotations

import math

import pytest
import torch
from course_helpers import random_policy, work

LOG = {"answer": "a", "gold": "a", "category": 1, "response": "", "prompt": "", "question": ""}
PROMPTS = [[5, 9, 14], [5, 9, 30, 31], [40, 41, 42, 43, 44], [7, 8]]
both = pytest.mark.parametrize("algorithm", ["grpo", "ppo"])


class OddFirst:
    """An agent that pays for responses whose first token is odd."""

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        from trees import Episode
        groups = policy.sample(tasks, group_size, 6, temperature, generator)
        return [[Episode([step], float(step.response_ids[0] % 2), dict(LOG)) for step in group]
                for group in groups]


class Canned:
    """An agent that hands out the same episodes whatever the policy is.

    Three groups of three, of different lengths, with the log-probs of the start model.
    """

    def __init__(self):
        from trees import Episode, Step
        policy, draw = random_policy(), torch.Generator().manual_seed(5)

        def ids(n):
            return torch.randint(3, 64, (n,), generator=draw).tolist()

        self.groups = []
        for place in range(3):
            prompt, group = ids(4 + 3 * place), []
            for member in range(3):
                step = Step(prompt, [*ids(1 + 2 * member), 2], True)
                scores = policy.token_log_probs([[step]]).tolist()
                group.append(Episode([Step(prompt, step.response_ids, True, scores)],
                                     float(member == place), dict(LOG)))
            self.groups.append(group)

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        return self.groups[: len(tasks)]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that makes a run of an algorithm around an agent, with a small random model."""
    def make(algorithm, agent, tasks, row_budget=4096, micro_batch_tokens=16384, **options):
        train = work(f"{algorithm}.train")
        import grpo
        import ppo
        from training import run as run_module
        # Everything is real but the model, the data and the agent.
        monkeypatch.setattr(run_module, "data_splits", lambda *_, **__: ([None],) * 3)
        monkeypatch.setattr(run_module, "shop_splits", lambda: ([None],) * 3)
        monkeypatch.setattr(run_module, "load_or_stop", lambda *_, **__: random_policy())
        kind = grpo.GRPOOptions if algorithm == "grpo" else ppo.PPOOptions
        settings = {"steps": 1, "epochs": 1, "questions": len(tasks), "group_size": 3, "kl": 0.0,
                    "lr": 1e-3, "max_new_tokens": 6, "max_grad_norm": 1e9, **options}
        if algorithm == "ppo":
            settings.update(critic="shared", critic_lr=1e-2)
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"  # each its own
        run = run_module.prepare(
            kind(agent="mem1", env="shop", out=str(folder), **settings), algorithm)
        run.agent, run.train, run.validation = agent, list(tasks), list(tasks)[:1]
        run.policy.row_budget, run.policy.micro_batch_tokens = row_budget, micro_batch_tokens
        return run, train
    return make


def gradient(run) -> torch.Tensor:
    """All that the last update left behind, as one vector."""
    assert all(p.grad is not None for p in run.policy.model.parameters()), (
        "some weights got no gradient: was backward() called, and not zero_grad() after it?")
    return torch.cat([p.grad.flatten() for p in run.policy.model.parameters()])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@both
def test_it_learns(start, algorithm):
    run, train = start(algorithm, OddFirst(), PROMPTS, steps=12, group_size=16, lr=3e-3,
                       max_grad_norm=1.0)
    rows, _ = train(run)
    first, last = rows[0]["reward"], sum(row["reward"] for row in rows[-3:]) / 3
    assert last > first + 0.15, (
        f"odd first tokens are paid; their share went from {first:.2f} to {last:.2f}. Falling: the "
        "loss has the wrong sign. Unchanged: is there an optimizer step after every backward?")


@both
def test_before_the_first_update_nothing_has_moved(start, algorithm):
    run, train = start(algorithm, OddFirst(), PROMPTS, steps=2, epochs=2, group_size=8)
    before = [p.clone() for p in run.reference.model.parameters()]
    rows, _ = train(run)
    assert max(row["ratio_error"] for row in rows) < 1e-4, (
        "sampling and scoring disagree before an update: ratio_error belongs to the first epoch "
        "alone, and the temperature to both")
    assert abs(rows[0]["kl"]) < 1e-5, "a KL before any update: logged in a later epoch?"
    assert rows[1]["kl"] > 1e-6, "the KL stays 0: the reference must not be the policy itself"
    assert all(torch.equal(a, b) for a, b in zip(before, run.reference.model.parameters())), (
        "the reference was trained")


@both
def test_clip_fraction_is_that_of_the_last_epoch(start, algorithm):
    clipped = {}
    for epochs in (1, 2):
        run, train = start(algorithm, OddFirst(), PROMPTS, steps=2, epochs=epochs, group_size=8,
                           lr=5e-2)
        clipped[epochs] = max(row["clip_fraction"] for row in train(run)[0])
    assert clipped[1] == 0, "before the first update nothing is clipped"
    assert clipped[2] > 0, (
        "a large step moves ratios out of the clip, and in the second epoch it stops them. "
        "TokenMetrics has to know how many epochs there are")


def test_the_gradient_of_a_fresh_batch(start):
    agent = Canned()
    run, train = start("grpo", agent, range(3), lr=1e-12)
    train(run)
    policy = random_policy()
    groups = [[episode.steps[0] for episode in group] for group in agent.groups]
    # Every group has one right answer of three: mean 1/3, deviation sqrt(1/3).
    advantages = [(episode.reward - 1 / 3) / (3 ** -0.5 + 1e-4) for group in agent.groups
                  for episode in group for _ in episode.steps[0].response_ids]
    log_probs = policy.token_log_probs(groups)
    loss = -(torch.tensor(advantages) * log_probs).mean()
    loss.backward()
    wanted = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    assert relative(gradient(run), wanted) < 1e-3, (
        f"off by {relative(gradient(run), wanted):.1e} of its size from the policy gradient. "
        "Minus sign of the loss? Old log-probs, advantages and weights looked up by "
        "`token_numbers`? Averaged twice?")


@both
@pytest.mark.parametrize("row_budget, micro_batch_tokens", [(4096, 40), (12, 1)])
def test_micro_batches_never_change_the_gradient(start, algorithm, row_budget, micro_batch_tokens):
    agent = Canned()
    whole, train = start(algorithm, agent, range(3), lr=1e-12, kl=0.1)
    train(whole)
    cut, train = start(algorithm, agent, range(3), row_budget, micro_batch_tokens, lr=1e-12, kl=0.1)
    train(cut)
    assert relative(gradient(cut), gradient(whole)) < 1e-3, (
        f"{relative(gradient(cut), gradient(whole)):.1e}: the size of a micro-batch changes the "
        "gradient. Sum weighted tokens, divide by the tokens of the whole batch, and step once "
        "behind the last micro-batch")


@both
def test_every_update_starts_from_no_gradient(start, algorithm):
    agent = Canned()
    once, train = start(algorithm, agent, range(3), lr=1e-12)
    train(once)
    often, train = start(algorithm, agent, range(3), lr=1e-12, epochs=3)
    train(often)
    assert relative(gradient(often), gradient(once)) < 1e-3, (
        "at a learning rate of 0 the third update has the gradient of the first, unless the old "
        "ones were never cleared")


@both
def test_what_is_logged_and_returned(start, algorithm):
    run, train = start(algorithm, OddFirst(), PROMPTS, steps=9, epochs=1, group_size=2)
    rows, scores = train(run)
    wanted = {"step", "reward", "kl", "entropy", "ratio_error", "clip_fraction", "grad_norm", "lr"}
    wanted |= {"value_loss", "explained_variance"} if algorithm == "ppo" else set()
    assert [row["step"] for row in rows] == list(range(1, 10)), "one row a step, counted from 1"
    assert wanted <= set(rows[0]), f"missing from the log: {wanted - set(rows[0])}"
    assert all(math.isfinite(value) for row in rows for value in row.values()), "not finite"
    assert set(scores) == {0, 8, 9}, (
        "validation: before the first step, after every eighth, and after the last")
    lines = (run.folder / "metrics.csv").read_text().splitlines()
    assert len(lines) == 10, "metrics.csv gets one line a step, while it happens (state.log)"
    assert run.n_tokens > 0, (
        "run.n_tokens counts the response tokens that were trained on: state.log adds them, so "
        "give TokenMetrics the N of the batch")


@both
def test_the_learning_rate_warms_up_and_falls(start, algorithm):
    run, train = start(algorithm, Canned(), range(3), steps=10, lr=1e-3)
    rates = [row["lr"] for row in train(run)[0]]
    assert rates[0] == pytest.approx(1e-3 / 4, rel=0.01, abs=0), (
        "the first step has a quarter of the rate: Adam's first step is of full length whatever "
        "the gradient")
    assert max(rates) > 0.6e-3 and rates[-1] == pytest.approx(1.9e-4, rel=0.05, abs=0), (
        "behind the warm-up over four steps the rate is 1 - 0.9 * step / steps of --lr")
