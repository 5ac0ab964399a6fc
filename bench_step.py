"""One GRPO step at fixed lengths, timed by phase; TRL's step beside it; the machine's own rate.

The step is that of `grpo.train`, with one epoch: sample G responses to each of P prompts, score them
with the reference, then loss, backward and optimizer. Every response has exactly the length that was
asked for: the policy knows no end id here, so nothing is cut short and nothing is sampled in vain.
Rewards cost nothing (is the first sampled id odd?), so that what is timed is the algorithm.

Nothing is computed twice. The old log-probs are those the sampler computed (grpo.py, note 4); TRL
too takes its old log-probs from a pass it needs anyway, that of the update.

Arithmetic, in floating-point operations (2 for a multiply and an add)
    forward  = 2 W t  +  2 D V s  +  4 A p
        W  weights of the linear layers below the head     t  tokens read
        D V  weights of the head                           s  places where the head is applied
        A  layers x heads x head width                     p  pairs (token, token on its path)
    sampling = reference = forward of what each of them reads;  update = 3 x forward
What a mask forbids is not counted although a masked square computes it, nor are norms, softmax and
the optimizer: the share of the machine's rate is that of the arithmetic that was needed.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from grpo import clipped_loss, group_advantages, kl_k3, token_weights
from policy import Policy, load_policy
from trees import Step, micro_batches

CLIP, KL, LEARNING_RATE, MAX_GRAD_NORM = 0.2, 0.1, 1e-6, 1.0  # the same for both
PHASES = ("sampling", "reference", "update")


@dataclass(frozen=True)
class Sizes:
    """The lengths of a step: P prompts of L tokens, G responses of N tokens each."""

    prompts: int = 16
    group: int = 8
    prompt_tokens: int = 96
    new_tokens: int = 24


# ---- What is timed -------------------------------------------------------------------------------


def random_folder(folder: Path) -> Path:
    """Write a random Qwen2 of 0.7 million parameters and a tokenizer of whole words; its folder."""
    words = ["<|endoftext|>", "<|im_end|>", *(f"word{i}" for i in range(1022))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=words[1], pad_token=words[0],
                            unk_token=words[0]).save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(words), hidden_size=128, intermediate_size=384, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32768,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )).save_pretrained(folder)
    return folder


def random_texts(tokenizer: PreTrainedTokenizerFast, count: int, n_tokens: int) -> list[str]:
    """Texts of random words that this tokenizer cuts into exactly `n_tokens` tokens.

    Raises ValueError if it has no words that stand alone.
    """
    draw = random.Random(0)
    ids = draw.sample(range(len(tokenizer)), min(len(tokenizer), 4000))
    words = [word for word in (tokenizer.decode([i]).strip() for i in ids) if word.isalnum()
             and len(tokenizer.encode(f" {word} {word}", add_special_tokens=False)) == 2]
    n_words = n_tokens - len(tokenizer.encode(""))  # some put a token before every text
    texts = ["".join(f" {word}" for word in draw.choices(words or [""], k=n_words))
             for _ in range(count)]
    if any(len(tokenizer.encode(text)) != n_tokens for text in texts):
        raise ValueError(f"cannot write a text of {n_tokens} tokens with this tokenizer: too few "
                         "words are one token each, or so many tokens are not possible")
    return texts


def grpo_step(policy: Policy, reference: Policy, optimizer: torch.optim.Optimizer,
              prompts: list[list[int]], sizes: Sizes,
              generator: torch.Generator) -> tuple[dict[str, float], list[list[Step]]]:
    """One step as in `grpo.train`; the seconds of each phase, and what was sampled."""
    device, clock = policy.device, [now(policy.device)]
    groups = policy.sample(prompts, sizes.group, sizes.new_tokens, 1.0, generator)
    rewards = torch.tensor([[float(s.response_ids[0] % 2) for s in g] for g in groups])  # (P, G)
    lengths = torch.tensor([len(step.response_ids) for group in groups for step in group])  # (E,)
    advantages = group_advantages(rewards).flatten().repeat_interleave(lengths).to(device)  # (N,)
    old_log_probs = torch.tensor([p for group in groups for step in group for p in step.log_probs],
                                 device=device)  # (N,)
    clock.append(now(device))
    with torch.no_grad():
        ref_log_probs = reference.token_log_probs(groups)  # (N,)
    clock.append(now(device))
    weights = token_weights(lengths, "token", sizes.new_tokens).to(device)  # (N,)
    optimizer.zero_grad()
    for rows in micro_batches(policy.rows(groups), policy.micro_batch_tokens):
        index = torch.tensor([i for row in rows for i in row.token_index], device=device)  # (n,)
        log_probs, _ = policy.score(rows)  # (n,)
        per_token, _ = clipped_loss(log_probs, old_log_probs[index], advantages[index], CLIP)
        kl = kl_k3(log_probs, ref_log_probs[index])
        (weights[index] * (per_token + KL * kl)).sum().backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    clock.append(now(device))
    return {name: after - before for name, before, after in zip(PHASES, clock, clock[1:])}, groups


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class OurStep:
    """A policy, its reference and its optimizer, ready to take steps of one size."""

    def __init__(self, folder: str | Path, sizes: Sizes):
        self.policy, self.reference, self.sizes = load_policy(folder), load_policy(folder), sizes
        self.reference.model.requires_grad_(False)
        self.policy.end_ids = {-1}  # an id that no token has: responses end at the limit
        self.optimizer = torch.optim.AdamW(
            self.policy.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        texts = random_texts(self.policy.tokenizer, sizes.prompts, sizes.prompt_tokens)
        self.prompts = [self.policy.tokenizer.encode(text) for text in texts]
        self.generator = torch.Generator(self.policy.device).manual_seed(0)

    def __call__(self) -> dict[str, float]:
        """Take a step; seconds by phase."""
        seconds, self.groups = grpo_step(self.policy, self.reference, self.optimizer, self.prompts,
                                         self.sizes, self.generator)
        return seconds
