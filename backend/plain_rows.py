"""The slow path, for models that cannot read trees: every response in a row of its own.

A transformer mixes positions in attention alone, which is why trees are exact. A model with
convolutions or a state space mixes neighbours in another way, and one with a sliding window counts
places where a tree has depths. Such models are sampled here by the library's own loop. Prompts of
a similar length are sampled together, without padding: what stands in a padding would be a
neighbour to a convolution, a part of a state, or a place in a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def length_batches(lengths: Sequence[int], n_rows: int, n_new: int, max_tokens: int,
                   ) -> list[list[int]]:
    """The numbers of prompts of these lengths that are sampled together, the shortest first.

    A prompt has `n_rows` rows, of `n_new` tokens more than the prompt. A batch has at most
    `max_tokens` in all rows, unless it is a single prompt. Its prompts differ by at most `n_new`
    tokens: a batch takes as many steps more, and at most twice as many as one prompt.
    """
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        length, batch = lengths[number], batches[-1] if batches else []
        size = (len(batch) + 1) * n_rows * (length + n_new)
        if batch and size <= max_tokens and length - lengths[batch[0]] <= n_new:
            batch.append(number)
        else:
            batches.append([number])
    return batches


def generate(model: PreTrainedModel, prompts: Sequence[list[int]], group_size: int,
             max_new_tokens: int, temperature: float, generator: torch.Generator | None,
             has_ended: Callable[[list[int]], bool], max_tokens: int) -> list[list[list[int]]]:
    """The ids of `group_size` responses to each prompt, by the library's loop.

    `has_ended` says whether a response ends with the last of its ids. Behind its end, other ids
    may follow. `max_tokens` is the room for prompts and responses that are sampled together.
    """
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0,
           "num_return_sequences": group_size} if temperature else {}
    n_rows = group_size if temperature else 1  # because all greedy responses are the same
    if generator is not None:  # the library draws from the global one: start that from ours
        seed = torch.randint(2**31, (1,), generator=generator, device=generator.device)
        torch.manual_seed(seed.item())
    # The model's own settings would fill in what is not said here. Qwen2.5's repetition penalty,
    # for example, makes what is sampled another distribution than what is scored.
    own, model.generation_config = model.generation_config, GenerationConfig()
    responses: list[list[list[int]]] = [[] for _ in prompts]
    try:
        for numbers in length_batches(
                list(map(len, prompts)), n_rows, max_new_tokens, max_tokens):
            rows = _written([prompts[number] for number in numbers for _ in range(n_rows)],
                            n_rows, model, max_new_tokens, has_ended, how)
            for place, number in enumerate(numbers):
                of_prompt = rows[place * n_rows : (place + 1) * n_rows]
                responses[number] = of_prompt if temperature else of_prompt * group_size
    finally:
        model.generation_config = own
    return responses


def _written(prompts: Sequence[list[int]], n_rows: int, model: PreTrainedModel,
             max_new_tokens: int, has_ended: Callable[[list[int]], bool], how: dict,
             ) -> list[list[int]]:
    """What is written behind each of the rows' prompts, those of one prompt side by side.

    No row is padded. All are read up to the length of the shortest. A longer one then gets its
    own next token in place of one that is drawn, until its prompt is read.
    """
    shortest, longest = len(prompts[0]), len(prompts[-1])

    def read_on(rows: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) of the next token of rows (B, T); only the prompt's, inside a prompt."""
        length = rows.shape[1]
        inside = [row for row, prompt in enumerate(prompts) if len(prompt) > length]
        if inside:
            scores = scores.clone()
            scores[inside] = -torch.inf
            scores[inside, [prompts[row][length] for row in inside]] = 0.0
        return scores

    def ended(rows: Tensor, _: object, **__: object) -> Tensor:
        """(B,) which of the rows (B, T) have ended."""
        # The library's own `stop_strings` compare the whole vocabulary for each prompt, and its end
        # ids end a row inside its prompt.
        written = [row[len(prompt) - shortest:]
                   for row, prompt in zip(rows[:, shortest:].tolist(), prompts)]
        return torch.tensor([len(ids) >= max_new_tokens or bool(ids) and has_ended(ids)
                             for ids in written], device=rows.device)

    ids = torch.tensor([prompt[:shortest] for prompt in prompts[::n_rows]], device=model.device)
    rows = model.generate(
        ids, attention_mask=torch.ones_like(ids), logits_processor=[read_on],
        max_new_tokens=longest - shortest + max_new_tokens, stopping_criteria=[ended],
        **how)  # (B, T)
    return [row[len(prompt):][:max_new_tokens] for row, prompt in zip(rows.tolist(), prompts)]
