"""From hidden states to logits, as the whole model makes them.

The logits of all places of a row would be most of the memory, so the head is put on the scored
places only. Most models do no more than multiply by the head's weights. Granite and Cohere also
scale the logits behind it, and Gemma-2 caps them. Their own code does that here.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast


def trunk(model: PreTrainedModel) -> nn.Module:
    """The model without its head: ids to hidden states. AttributeError if it has none."""
    # Llama-4 does not say under which name its trunk is, so that `base_model` is itself.
    return model.base_model if model.base_model is not model else model.model


class Answer(nn.Module):
    """Stands for a trunk, and answers with hidden states that are known already."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: object, **__: object) -> MoeModelOutputWithPast:
        """The hidden states, whatever is asked."""
        return MoeModelOutputWithPast(last_hidden_state=self.hidden)


def whole_head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits (M, V) of hidden states (M, D), by all that the model does behind its trunk."""
    shell = copy(model)  # shares all weights with the model
    shell._modules = {name: Answer(hidden[None]) if child is trunk(model) else child
                      for name, child in model._modules.items()}
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    return shell(input_ids=ids, use_cache=False).logits[0]


def is_linear(model: PreTrainedModel, row: Tensor) -> bool:
    """Whether the model's logits after `row` (1, T) are its head's, with nothing before or behind.

    Raises ValueError if not even `whole_head` gives the model's logits.
    """
    logits = model(input_ids=row, use_cache=False).logits  # (1, T, V)
    hidden = trunk(model)(input_ids=row, use_cache=False).last_hidden_state  # (1, T, D)

    def agree(other: Tensor) -> bool:
        # The same operations on the same shapes: what differs by more does more.
        return other.shape == logits.shape and torch.allclose(
            other, logits, atol=1e-5, equal_nan=True)  # spoilt weights are reported elsewhere

    head = model.get_output_embeddings()
    if head.weight.shape[1] == hidden.shape[2] and agree(head(hidden)):
        return True
    if not agree(whole_head(model, hidden[0])[None]):
        raise ValueError("its logits are not made from its last hidden states alone")
    return False
