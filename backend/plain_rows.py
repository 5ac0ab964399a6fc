"""The slow path, for models that cannot read trees: every response in a row of its own.

A transformer mixes positions in attention alone, which is why trees are exact. A model with
convolutions or a state space mixes neighbours in another way, and one with a sliding window counts
places where a tree has depths. Such models are sampled here by the library's own loop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel


def unpackable_layers(config: PreTrainedConfig) -> str:
    """What a configuration says that rules trees out, such as a sliding window; "" if nothing."""
    if kinds := getattr(config, "layer_types", None):
        others = sorted(set(kinds) - {"full_attention"})
        return f"some of its layers are no full attention ({', '.join(others)})" if others else ""
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    return f"its attention is cut to a sliding window of {window} tokens" if window else ""


def generate(model: PreTrainedModel, tokenizer, prompts: Sequence[list[int]],
             end_ids: Collection[int], group_size: int, max_new_tokens: int, temperature: float,
             generator: torch.Generator | None, stop_texts: Sequence[str]) -> list[list[list[int]]]:
    """The ids of `group_size` responses to each prompt, by the library's loop, prompt by prompt.

    Behind an end id, or a stop text, ids of the padding may follow.
    """
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0,
           "num_return_sequences": group_size} if temperature else {}
    if stop_texts:
        how |= {"stop_strings": list(stop_texts), "tokenizer": tokenizer}
    if generator is not None:  # the library draws from the global one: start that from ours
        seed = torch.randint(2**31, (1,), generator=generator, device=generator.device)
        torch.manual_seed(seed.item())
    # The model's own settings would fill in what is not said here. Qwen2.5's repetition penalty,
    # for example, makes what is sampled another distribution than what is scored.
    own, model.generation_config = model.generation_config, GenerationConfig()
    responses = []
    try:
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            rows = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
                eos_token_id=sorted(end_ids), pad_token_id=min(end_ids), **how)  # (B, T)
            written = rows[:, len(prompt):].tolist()
            # Greedy responses are all the same, so only one was generated.
            responses.append(written if temperature else written * group_size)
    finally:
        model.generation_config = own
    return responses
