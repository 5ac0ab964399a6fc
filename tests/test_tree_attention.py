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


@pytest.mark.parametrize("n_causal", [0, 5, 11])
@pytest.mark.parametrize("size", [15, 16, 17, 40])
def test_blocks_equal_the_whole_square(short_blocks, size, n_causal):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, size, 4, requires_grad=True) for heads in (6, 3, 3))
    # A trunk of five tokens, a branch of six behind it, another behind that. Eleven are causal.
    ends = [[size] * 5 + [11] * 6 + [size] * (size - 11)] * 2
    mask = tree_mask(torch.tensor(ends), torch.float32)
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    whole = sdpa_attention_forward(module, query, key, value, mask)[0]
    cut = tree_attention.tree_attention(
        module, query, key, value, tree_attention.mark_causal(mask, n_causal))[0]
    assert torch.allclose(cut, whole, atol=1e-6), "a block lacks keys or has the wrong mask"
    weights = torch.randn_like(whole)
    wanted = torch.autograd.grad((whole * weights).sum(), [query, key, value])
    found = torch.autograd.grad((cut * weights).sum(), [query, key, value])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted)), "wrong gradients"


@pytest.mark.parametrize("n_heads, n_key_heads", [(6, 3), (9, 3), (4, 1), (14, 2)])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups_beside_the_queries_equal_repeated_keys(n_heads, n_key_heads, size):
    torch.manual_seed(n_heads + size)
    query = torch.randn(2, n_heads, size, 4)
    key, value = (torch.randn(2, n_key_heads, 17, 4) for _ in range(2))
    mask = torch.zeros(2, 1, size, 17).masked_fill(torch.rand(2, 1, size, 17) < 0.5, -1e9)
    module = torch.nn.Module()
    module.num_key_value_groups = n_heads // n_key_heads
    wanted = sdpa_attention_forward(module, query, key, value, mask)[0]
    found = tree_attention.tree_attention(module, query, key, value, mask)[0]
    assert found.shape == wanted.shape == (2, size, n_heads, 4)
    assert torch.allclose(found, wanted, atol=1e-6), (
        "a query met the keys of another group, the mask of another query, or came back elsewhere")


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_sampling_copies_no_keys_for_groups(tiny_policy, monkeypatch, kind):
    policy = tiny_policy(kind, num_attention_heads=8, num_key_value_heads=2)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 320, (n,), generator=draw).tolist() for n in (40, 41, 40)]
    prompts.append([*prompts[0], 7])
    sampled = policy.sample(prompts, 3, 12, 1.0, torch.Generator().manual_seed(1))
    claimed = torch.tensor([p for steps in sampled for step in steps for p in step.log_probs])
    policy.model.set_attn_implementation("sdpa")  # the library repeats keys
    assert (claimed - policy.token_log_probs(sampled)).abs().max() < 1e-5, (
        "another distribution than the library's own attention gives")
    policy.model.set_attn_implementation("tree")
    shapes = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, **how:
                        shapes.append((q.shape, k.shape, v.shape)) or attend(q, k, v, **how))
    policy.sample(prompts, 3, 12, 1.0, torch.Generator().manual_seed(1))
    steps = [(q, k, v) for q, k, v in shapes if k[2] > 41 + 1]  # all but the reading of prompts
    assert len(steps) > 8 and all(k[1] == v[1] == 2 for _, k, v in steps), (
        f"2 key heads were copied for the 8 query heads: {steps[-1]}")


def test_a_policy_reads_its_trees_in_blocks(short_blocks, tiny_policy, monkeypatch):
    policy = tiny_policy()
    assert policy.model.config._attn_implementation == "tree", "blocks are not used"
    steps = [Step(list(range(3, 30)), [40 + i, 50, 60 + i], False) for i in range(4)]
    in_blocks = policy.token_log_probs([steps])
    sizes = []
    monkeypatch.setattr(tree_attention, "sdpa_attention_forward", lambda module, q, *rest, **how:
                        sizes.append(q.shape[2]) or sdpa_attention_forward(module, q, *rest, **how))
    policy.token_log_probs([steps])
    assert set(sizes) == {29, 6}, f"29 causal places and 6 others were cut into {set(sizes)}"
    policy.model.set_attn_implementation("sdpa")
    assert torch.allclose(policy.token_log_probs([steps]), in_blocks, atol=1e-4)


def test_the_causal_places_of_a_row_see_all_before_them_and_the_next_does_not(tiny_policy):
    policy = tiny_policy()
    draw = torch.Generator().manual_seed(0)
    asked = []
    for n_prompt, n_samples in ((9, 3), (6, 1), (12, 2)):
        prompt = torch.randint(3, 320, (n_prompt,), generator=draw).tolist()
        asked.append([Step(prompt, [40 + i, 50, 60], False) for i in range(n_samples)])
    rows = [row for tree in asked for row in policy.rows([tree])]
    assert [row.n_causal for row in rows] == [9 + 2, 6 + 2, 12 + 2], "a response of three reads two"
    ends = torch.tensor([row.ends + [99] * (99 - len(row.ends)) for row in rows])
    mask = tree_mask(ends, torch.float32)[:, 0] == 0  # (R, T, T)
    for row, sees in zip(rows, mask):
        seen = sees.int().sum(-1)[:len(row.ends)].tolist()
        first = next((p for p, n in enumerate(seen) if n != p + 1), len(seen))
        assert row.n_causal == first, "the first place that does not see all before it"


def test_a_policy_of_another_kernel_keeps_it(tiny_policy):
    assert tiny_policy(attn_implementation="eager").model.config._attn_implementation == "eager"
