"""The ten planted bugs as data: what is replaced by what, and the test that notices.

For teachers: this file and key.md are the key, and not in what students get. `make.py OUT --bug 3`
applies one; it stops with one line where the project no longer holds the text to be replaced.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One bug."""

    file: str
    changes: tuple[tuple[str, str], ...]  # (old, new): each old text stands in the file once
    caught_by: str  # a test of the project that fails with the bug, as pytest names it


PATCHES = {
    1: Patch("grpo.py", ((
        "    log_ratio = ref_log_probs - log_probs\n",
        "    log_ratio = log_probs - ref_log_probs\n"),),
        "tests/test_grpo.py::test_the_expected_k3_is_the_kl_from_policy_to_reference"),
    2: Patch("grpo.py", ((
        "ref_log_probs = run.reference.token_log_probs(",
        "ref_log_probs = run.policy.token_log_probs("),),
        "tests/test_grpo.py::test_two_real_steps"),
    3: Patch("grpo.py", ((
        "(batch.weights[index] * (surrogate + options.kl * kl)).sum().backward()",
        "(surrogate + options.kl * kl).mean().backward()"),),
        "tests/test_grpo.py::test_a_step_has_the_gradient_of_the_definition"),
    4: Patch("ppo.py", ((
        "    last = lengths.cumsum(0) - 1  # (E,) an episode without tokens has no place for its "
        "reward\n",
        "    last = lengths.cumsum(0) - lengths  # (E,) an episode without tokens has no place for "
        "it\n"),),
        "tests/test_ppo.py::test_the_reward_stands_on_the_last_response_token"),
    5: Patch("grpo.py", ((
        "policy.score(micro_batch, options.temperature)",
        "policy.score(micro_batch)"),),
        "tests/test_grpo.py::test_two_real_steps"),
    6: Patch("grpo.py", ((
        "    return -torch.minimum(unclipped, clipped), metrics\n",
        "    return -torch.maximum(unclipped, clipped), metrics\n"),),
        "tests/test_grpo.py::test_clip_quadrants"),
    7: Patch("grpo.py", ((
        "        learned(policy.model), lr=options.lr,",
        "        run.reference.model.parameters(), lr=options.lr,"),),
        "tests/test_grpo.py::test_two_real_steps"),
    8: Patch("ppo.py", ((
        "    all_advantages, all_values, all_returns = map(all_of, (",
        "    returns = whiten(advantages) + old_values\n"
        "    all_advantages, all_values, all_returns = map(all_of, ("),),
        "tests/test_ppo.py::test_collect_by_the_definition"),
    9: Patch("grpo.py", ((
        "log_probs, batch.old_log_probs[index], batch.advantages[index], options.clip)",
        "log_probs, log_probs.detach(), batch.advantages[index], options.clip)"),),
        "tests/test_grpo.py::test_a_step_has_the_gradient_of_the_definition"),
    10: Patch("ppo.py", ((
        "        earned, old_values, lengths, last_values, options.gamma, options.lam)\n",
        "        earned, old_values, lengths.sum()[None], last_values[-1:], options.gamma, "
        "options.lam)\n"),),
        "tests/test_ppo.py::test_collect_by_the_definition"),
}
