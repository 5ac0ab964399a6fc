"""Problem 3: the log-probs of sampled tokens.

    python -m pytest assignments/tests/test_03_log_probs.py
"""

from __future__ import annotations

import pytest
import torch
from course_helpers import random_model, tensor, tokenizer, work

PROMPT, RESPONSE = [5, 9, 14], [7, 30, 0]  # the last id ends the response, and pads as well
OTHER_PROMPT, OTHER_RESPONSE = [40, 41, 3, 50, 51], [8, 2]


def plain_row(prompt, response, first=0):
    """One sequence laid out as a row; `first` is the number of its first response token."""
    from trees import Row
    sequence = prompt + response[:-1]  # the last token is scored but never read
    n = len(sequence)
    return Row(sequence, list(range(n)), [n] * n, list(range(len(prompt) - 1, n)), response,
               list(range(first, first + len(response))))


def make_policy(monkeypatch, packs=False):
    """A policy that is told whether it packs trees, instead of trying."""
    work("policy.Policy.score")
    from policy import Policy
    monkeypatch.setattr(Policy, "_why_plain", lambda self: "" if packs else "the test says so")
    return Policy(random_model(), tokenizer())


def by_loop(model, prompt, response, temperature=1.0) -> list[float]:
    """Token by token, each from a forward pass of its own."""
    found = []
    for place, token in enumerate(response):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response[:place]])).logits[0, -1] / temperature
        found.append((logits[token] - logits.logsumexp(0)).item())
    return found


def test_each_token_is_scored_where_it_is_predicted(monkeypatch):
    policy = make_policy(monkeypatch)
    log_probs, _ = policy.score([plain_row(PROMPT, RESPONSE)])
    found = tensor(log_probs, (3,), "log_probs").tolist()
    assert found == pytest.approx(by_loop(policy.model, PROMPT, RESPONSE), abs=1e-4), (
        "wrong tokens or places: the logits at a place predict the *next* token; score_at holds "
        "those places already, so another shift by one is one too many")


def test_rows_of_different_lengths_and_their_order(monkeypatch):
    policy = make_policy(monkeypatch)
    rows = [plain_row(PROMPT, RESPONSE), plain_row(OTHER_PROMPT, OTHER_RESPONSE, 3)]
    wanted = (by_loop(policy.model, PROMPT, RESPONSE)
              + by_loop(policy.model, OTHER_PROMPT, OTHER_RESPONSE))
    for batch, expected in ((rows, wanted), (rows[::-1], wanted[3:] + wanted[:3])):
        found = tensor(policy.score(batch)[0], (5,), "log_probs").tolist()
        assert found == pytest.approx(expected, abs=1e-4), (
            "two rows in a batch: the tokens come row by row in the order of `targets`; end ids "
            "and padding ids inside a response are scored like any other token")


def test_one_place_may_predict_several_tokens(monkeypatch):
    policy = make_policy(monkeypatch)
    from trees import Row
    row = Row(PROMPT, [0, 1, 2], [3] * 3, [2, 2, 1], [7, 8, 14], [0, 1, 2])
    found = tensor(policy.score([row])[0], (3,), "log_probs").tolist()
    wanted = [by_loop(policy.model, PROMPT, [token])[0] for token in (7, 8)]
    wanted.append(by_loop(policy.model, PROMPT[:2], [14])[0])
    assert found == pytest.approx(wanted, abs=1e-4), (
        "samples that agree so far share a place: `token_at` says which of the M places belongs to "
        "each of the N tokens")


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_distribution_that_was_sampled_from(monkeypatch, temperature):
    policy = make_policy(monkeypatch)
    log_probs, entropies = policy.score([plain_row(PROMPT, RESPONSE)], temperature)
    wanted = by_loop(policy.model, PROMPT, RESPONSE, temperature)
    assert tensor(log_probs, (3,), "log_probs").tolist() == pytest.approx(wanted, abs=1e-4), (
        "divide the logits by the temperature before the softmax: dividing log-probs, or leaving "
        "the temperature out, makes the ratio of new and old something else than 1 at the start")


def test_entropies_by_definition(monkeypatch):
    policy = make_policy(monkeypatch)
    entropies = tensor(policy.score([plain_row(PROMPT, RESPONSE)], 0.7)[1], (3,), "entropies")
    wanted = []
    for place in range(3):
        with torch.no_grad():
            logits = policy.model(torch.tensor([PROMPT + RESPONSE[:place]])).logits[0, -1] / 0.7
        p = logits.softmax(0)
        wanted.append(-(p * p.log()).sum().item())
    assert entropies.tolist() == pytest.approx(wanted, abs=1e-3), (
        "the entropy of the whole tempered distribution at each token's place, in nats")


def test_gradients_go_through_log_probs_alone(monkeypatch):
    policy = make_policy(monkeypatch)
    log_probs, entropies = policy.score([plain_row(PROMPT, RESPONSE)])
    assert log_probs.requires_grad, "no gradient: nothing would ever be learned"
    assert not entropies.requires_grad, (
        "entropies are only logged; a graph kept for them doubles the memory of the logits")
    log_probs.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in policy.model.parameters()), (
        "some weights got no gradient")


def test_packed_rows_too(monkeypatch):
    policy = make_policy(monkeypatch, packs=True)
    rows = [plain_row(PROMPT, RESPONSE), plain_row(OTHER_PROMPT, OTHER_RESPONSE, 3)]
    wanted = (by_loop(policy.model, PROMPT, RESPONSE)
              + by_loop(policy.model, OTHER_PROMPT, OTHER_RESPONSE))
    found = tensor(policy.score(rows)[0], (5,), "log_probs").tolist()
    assert found == pytest.approx(wanted, abs=1e-4), (
        "the hidden states come from `self.read`, under the tree mask; the logits are `self.head` "
        "of them")
