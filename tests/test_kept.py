"""Tests of training/kept.py: greedy responses that earlier runs have left on disk.

    python -m pytest tests/test_kept.py        (a second)
"""

from __future__ import annotations

from copy import copy

import pytest
import torch

from policy import Policy
from training.kept import KeptPolicy

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7]]


class Forbidden:
    """Stands in for `Policy.sample` where nothing may be sampled."""

    def __call__(self, *given, **how):
        raise AssertionError("a response that is on disk was sampled again")


def written(steps: list[list]) -> list[tuple]:
    return [(step.prompt_ids, step.response_ids, step.finished) for [step] in steps]


def test_a_response_is_sampled_once_by_model_prompt_and_length(tiny_policy, tmp_path):
    policy: Policy = tiny_policy()
    wanted = written(policy.sample(PROMPTS, 1, 6, 0))
    first = KeptPolicy(policy, tmp_path)
    assert written(first.sample(PROMPTS, 1, 6, temperature=0)) == wanted, "another response"
    assert (first.n_new, first.n_kept) == (2, 0), "equal prompts are one"
    again = KeptPolicy(policy, tmp_path)
    policy.sample = Forbidden()
    assert written(again.sample(PROMPTS, 1, 6, temperature=0)) == wanted, "not what was written"
    assert (again.n_new, again.n_kept) == (0, 2)
    with pytest.raises(AssertionError):  # a shorter response is another one
        again.sample(PROMPTS, 1, 5, temperature=0)
    other: Policy = tiny_policy(seed=3)
    assert KeptPolicy(other, tmp_path).path != again.path, "another model's responses"
    for change in ({"end_ids": {2, 9}}, {"autocast": True}):
        mended = copy(policy)
        vars(mended).update(change)
        assert KeptPolicy(mended, tmp_path).path != again.path, (
            f"{change}: the responses of before, which went on behind the new end or were computed "
            "in another precision")
    other.sample = Forbidden()
    with pytest.raises(AssertionError):
        KeptPolicy(other, tmp_path).sample(PROMPTS, 1, 6, temperature=0)


def test_adapters_that_are_off_leave_the_model_what_it_was(tiny_policy, tmp_path):
    from backend.lora import add_adapters
    policy: Policy = tiny_policy()
    path = KeptPolicy(policy, tmp_path).path
    add_adapters(policy.model, 2)
    assert KeptPolicy(policy.start(), tmp_path).path == path, "the start model of every run is one"
    with torch.no_grad():
        for name, weights in policy.model.named_parameters():
            weights += "lora" in name
    assert KeptPolicy(policy, tmp_path).path != path, "adapters that are on change the responses"


def test_a_torn_file_and_a_full_disk_cost_no_run(tiny_policy, tmp_path, capsys):
    policy: Policy = tiny_policy()
    wanted = written(policy.sample(PROMPTS, 1, 6, 0))
    kept = KeptPolicy(policy, tmp_path)
    kept.sample(PROMPTS, 1, 6, temperature=0)
    for torn in (b'{"key": "a', b'\n{"key": "b", "ids": 3}', b"\nnull", b"\n\xff\xfe", b'\n{"key"'):
        kept.path.write_bytes(kept.path.read_bytes() + torn)
        assert written(KeptPolicy(policy, tmp_path).sample(PROMPTS, 1, 6, temperature=0)) == wanted
    KeptPolicy(policy, tmp_path).sample([[11, 12]], 1, 6, temperature=0)
    later = KeptPolicy(policy, tmp_path)
    later.sample([[11, 12]], 1, 6, temperature=0)
    assert later.n_kept == 1, "a line behind a torn one was lost"
    (tmp_path / "file").write_text("")
    blocked = KeptPolicy(policy, tmp_path / "file" / "folder")
    for _ in range(2):
        assert written(blocked.sample(PROMPTS, 1, 6, temperature=0)) == wanted
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "MEMORY_R1_CACHE" in message, message
    with pytest.raises(ValueError, match="greedy"):
        kept.sample(PROMPTS, 2, 6, temperature=1.0)
