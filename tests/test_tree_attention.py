"""backend/attention.py: the same numbers as the library's kernel over the whole square."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from backend import attention as tree_attention
from trees import Step, tree_mask


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(tree_attention, "BLOCK", 8)


@pytest.mark.parametrize("size", [15, 16, 17, 40])
def test_blocks_equal_the_whole_square(short_blocks, size):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, size, 4, requires_grad=True) for heads in (6, 3, 3))
    # A trunk of five tokens, a branch of six behind it, another behind that.
    ends = [[size] * 5 + [11] * 6 + [size] * (size - 11)] * 2
    mask = tree_mask(torch.tensor(ends), torch.float32)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    whole = sdpa_attention_forward(module, query, key, value, mask)[0]
    cut = tree_attention.tree_attention(module, query, key, value, mask)[0]
    assert torch.allclose(cut, whole, atol=1e-6), "a block lacks keys or has the wrong mask"
    weights = torch.randn_like(whole)
    wanted = torch.autograd.grad((whole * weights).sum(), [query, key, value])
    found = torch.autograd.grad((cut * weights).sum(), [query, key, value])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted)), "wrong gradients"


def test_a_policy_reads_its_trees_in_blocks(short_blocks, tiny_policy, monkeypatch):
    policy = tiny_policy()
    assert policy.model.config._attn_implementation == "tree", "blocks are not used"
    steps = [Step(list(range(3, 30)), [40 + i, 50, 60 + i], False) for i in range(4)]
    in_blocks = policy.token_log_probs([steps])
    sizes = []
    monkeypatch.setattr(tree_attention, "sdpa_attention_forward", lambda module, q, *rest, **how:
                        sizes.append(q.shape[2]) or sdpa_attention_forward(module, q, *rest, **how))
    policy.token_log_probs([steps])
    assert set(sizes) == {8, 35 % 8}, f"a row of 35 places was cut into {set(sizes)}"
    policy.model.set_attn_implementation("sdpa")
    assert torch.allclose(policy.token_log_probs([steps]), in_blocks, atol=1e-4)


def test_a_policy_of_another_kernel_keeps_it(tiny_policy):
    assert tiny_policy(attn_implementation="eager").model.config._attn_implementation == "eager"
