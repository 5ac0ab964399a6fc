"""Attention over packed trees (trees.py) that leaves out the half of the square no token may see.

In depth-first order a token sees no later place, but a masked kernel computes the whole square of
T x T scores and then forbids half of it. What stands before a row's second branch needs no mask: it
is plain causal attention, for which every device has its fastest kernel. What follows is cut into
blocks of queries, and each block needs only the keys up to its own end. Rows of less than two
blocks go the usual way. The result is the same up to rounding.

For sampling there is a key-value cache that does not copy itself for every token, and attention
that does not copy the cache for every group of heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicLayer, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BLOCK = 256  # queries; smaller ones skip more and start more kernels: 64 to 512 differ little
NO_GROUPS = nn.Module()  # stands for a layer with as many key heads as query heads


def tree_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
                   mask: Tensor | None, **ways) -> tuple[Tensor, None]:
    """What the library's attention layers call: heads first, query (B, H, T, d), mask (B, 1, T, S).

    Returns (B, T, H, d). A cache in front of the queries (S > T) is read whole. How many
    queries need no mask stands on the mask, because every model hands that on (`mark_causal`).
    """
    size, n_keys, n_groups = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    if (n_keys > size and n_groups > 1 and mask is not None and mask.shape[1] == 1
            and ways.get("position_bias") is None):
        return grouped_attention(query, key, value, mask, **ways), None
    if mask is None or size < 2 * BLOCK or n_keys != size:
        return sdpa_attention_forward(module, query, key, value, mask, **ways)
    # Grouped heads are repeated here, once: a copy for each block would be kept for the backward.
    key, value = (repeat_kv(x, n_groups) for x in (key, value))
    n_causal, parts = getattr(mask, "n_causal", 0), []
    starts = sorted({0, *range(n_causal, size, BLOCK)})
    for start, end in pairwise([*starts, size]):
        of_block = mask[:, :, start:end, :end] if end > n_causal else None  # None is causal
        parts.append(sdpa_attention_forward(
            NO_GROUPS, query[:, :, start:end], key[:, :, :end], value[:, :, :end], of_block,
            **ways)[0])
    return torch.cat(parts, dim=1), None


def mark_causal(mask: Tensor, n_causal: int) -> Tensor:
    """A mask (B, 1, T, T) that says itself how many first tokens see all tokens before them."""
    mask.n_causal = n_causal
    return mask


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor,
                      **ways) -> Tensor:
    """Attention of few queries (B, H, T, d) over a long cache (B, K, S, d); (B, T, H, d).

    Each key head serves H / K query heads. Here these stand one behind the other, as H / K * T
    queries of that key head. The library repeats the keys instead, which copies the whole cache H /
    K times for every token that is sampled. `mask` is (B, 1, T, S). It is repeated, because it is
    small: for one branch a place of it is one number, and a place of all key heads 2 K d.
    """
    n_batch, n_heads, size, width = query.shape
    n_groups = n_heads // key.shape[1]
    query = query.reshape(n_batch, -1, n_groups * size, width)  # (B, K, H / K * T, d)
    mixed = sdpa_attention_forward(
        NO_GROUPS, query, key, value, mask.repeat(1, 1, n_groups, 1), **ways)[0]
    mixed = mixed.unflatten(1, (n_groups, size))  # (B, H / K, T, K, d)
    return mixed.permute(0, 2, 3, 1, 4).flatten(2, 3)  # (B, T, H, d)


AttentionInterface.register("tree", tree_attention)
AttentionMaskInterface.register("tree", sdpa_mask)  # what the library makes where we give no mask


def use_tree_attention(model: PreTrainedModel) -> None:
    """Let a causal model that computes attention by sdpa, torch's own kernels, do so in blocks."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation("tree")


def cache_argument(model: PreTrainedModel) -> str:
    """The name under which a model's layers take their key-value cache.

    It is `cache` from transformers 5.24 on, and was `past_key_values` before.
    """
    arguments = inspect.signature(model.base_model.forward).parameters
    return "cache" if "cache" in arguments else "past_key_values"


class RoomyLayer(DynamicLayer):
    """The keys and values of one layer, (B, H, T, D) each, with room to grow along T.

    The library's own layer copies all of them for every new token. Over memories that are read
    once and answered at length this took longer than the model itself; here it is done only when
    the room, a quarter more than was needed, is used up. The room never grows beyond `most`, the
    longest T that can be needed.
    """

    room: Sequence[Tensor] = ()

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def update(self, key_states: Tensor, value_states: Tensor, *args,
               **kwargs) -> tuple[Tensor, Tensor]:
        """Append new ones; return all, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.get_seq_length(), (key_states, value_states)
        end = start + key_states.shape[-2]
        if not self.room or end > self.room[0].shape[-2]:
            old = self.keys, self.values
            size = min(end + end // 4, self.most)
            self.room = [x.new_empty(*x.shape[:-2], size, x.shape[-1]) for x in new]
            for room, x in zip(self.room, old if start else ()):
                room[..., :start, :] = x
        for room, x in zip(self.room, new):
            room[..., start:end, :] = x
        self.keys, self.values = (room[..., :end, :] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the batch; the room of all is given back."""
        super().batch_select_indices(indices)
        self.room = ()
