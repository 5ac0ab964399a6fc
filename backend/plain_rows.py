"""The slow path, for models that cannot read trees: every response in a row of its own.

A transformer mixes positions in attention alone, which is why trees are exact. A model with
convolutions or a state space mixes neighbours in another way, and one with a sliding window counts
places where a tree has depths. Such models are sampled here by the library's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel


def unpackable_layers(config: PreTrainedConfig) -> str:
    """What a configuration says that rules trees out, such as a sliding window; "" if nothing.

    A window as wide as the model's positions is none: Phi-4-mini's, for example, is never reached.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    positions = getattr(config, "max_position_embeddings", None)
    is_reached = not (window and positions and window >= positions)
    if kinds := getattr(config, "layer_types", None):
        others = set(kinds) - {"full_attention"}
        if not is_reached:
            others.discard("sliding_attention")
        names = ", ".join(sorted(others))
        return f"some of its layers are no full attention ({names})" if others else ""
    return (f"its attention is cut to a sliding window of {window} tokens"
            if window and is_reached else "")


def generate(model: PreTrainedModel, prompts: Sequence[list[int]], end_ids: Collection[int],
             group_size: int, max_new_tokens: int, temperature: float,
             generator: torch.Generator | None, has_ended: Callable[[list[int]], bool],
             ) -> list[list[list[int]]]:
    """The ids of `group_size` responses to each prompt, by the library's loop, prompt by prompt.

    `has_ended` says whether a response ends with the last of its ids. Behind its end, ids of the
    padding may follow.
    """
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0,
           "num_return_sequences": group_size} if temperature else {}
    if generator is not None:  # the library draws from the global one: start that from ours
        seed = torch.randint(2**31, (1,), generator=generator, device=generator.device)
        torch.manual_seed(seed.item())
    # The model's own settings would fill in what is not said here. Qwen2.5's repetition penalty,
    # for example, makes what is sampled another distribution than what is scored.
    own, model.generation_config = model.generation_config, GenerationConfig()
    responses = []
    try:
        for prompt in prompts:
            def ended(rows: Tensor, _: object, first: int = len(prompt), **__: object) -> Tensor:
                """(B,) which of the rows (B, T) have ended."""
                # The library's own `stop_strings` compare the whole vocabulary for each prompt.
                return torch.tensor([has_ended(ids) for ids in rows[:, first:].tolist()],
                                    device=rows.device)

            ids = torch.tensor([prompt], device=model.device)
            rows = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
                eos_token_id=sorted(end_ids), pad_token_id=min(end_ids),
                stopping_criteria=[ended], **how)  # (B, T)
            written = rows[:, len(prompt):].tolist()
            # Greedy responses are all the same, so only one was generated.
            responses.append(written if temperature else written * group_size)
    finally:
        model.generation_config = own
    return responses
