"""One GRPO step at fixed lengths, timed by phase; the machine's own rate.

The step is that of `grpo.train` with one epoch: sample G responses to each of P prompts, score them
with the reference, then loss, backward and optimizer. Every response has exactly N tokens, because
the policy is given no end id. Rewards cost nothing (is the first sampled id odd?), so that only the
algorithm is timed.

Nothing is computed twice. The old log-probs are those that the sampler computed (grpo.py, note 4).
TRL, which trl_peer.py times, takes its own from a pass that it needs anyway, that of the update.

Arithmetic, in floating-point operations (2 for a multiply and an add)
    forward = 2 W t + 2 D V s + 4 A p      W  weights of the linear layers    t  tokens read
                                           D V  weights of the head           s  places scored
                                           A  layers x heads x head width     p  pairs of a token
                                                                                 and one it sees
    sampling, reference: one forward of what each reads
    update: three (forward, gradients of activations, gradients of weights); with adapters two
Four things are not counted: pairs that a mask forbids (though a masked square computes them), norms
and softmax, the optimizer, and layers that are computed again. So the share of the machine's rate
is that of the arithmetic that is needed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from backend.loading import gpu_has_half
from backend.lora import add_adapters, checkpoint_layers, learned, linear_layers, low_rank_layers
from grpo import clipped_loss, group_advantages, kl_k3, token_weights
from policy import Policy, load_policy
from trees import Step, token_numbers

CLIP, KL, LEARNING_RATE, MAX_GRAD_NORM = 0.2, 0.1, 1e-6, 1.0  # the same for both
PHASES = ("sampling", "reference", "update")
WORDS = 1024


@dataclass(frozen=True)
class Setting:
    """A step of P prompts of L tokens with G responses of N tokens each, and how it is trained."""

    prompts: int = 16
    group: int = 8
    prompt_tokens: int = 96
    new_tokens: int = 24
    lora: int = 0  # rank of the adapters; 0: all weights learn
    precision: str | None = None  # of the arithmetic: bfloat16 or float32; as in `load_policy`
    checkpointing: bool | None = False  # None: as needed
    micro_batch_tokens: int = 16384

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def half(self) -> bool:
        """Whether layers compute in bfloat16."""
        return self.precision == "bfloat16" if self.precision else gpu_has_half(self.device)


# ---- What is timed -------------------------------------------------------------------------------


def words_tokenizer(vocab_size: int = WORDS) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: one word, one token."""
    words = ["<|endoftext|>", "<|im_end|>"]
    words += [f"word{i}" for i in range(min(vocab_size, WORDS) - len(words))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=words[0], pad_token=words[0], eos_token=words[1])


def random_folder(folder: Path, width: int = 128) -> Path:
    """Write a random Qwen2 and its tokenizer; returns the folder.

    It has 3 layers of `width`, a multiple of 64: 0.7 million parameters at 128.
    """
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=WORDS, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=3,
        num_attention_heads=width // 32, num_key_value_heads=width // 64,
        max_position_embeddings=32768,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


def config_only(folder: str | Path) -> bool:
    """Whether a folder has a configuration and no weights."""
    folder = Path(folder)
    return (folder / "config.json").is_file() and not any(
        any(folder.glob(kind)) for kind in ("*.safetensors", "*.bin"))


def bench_policy(folder: str | Path, setting: Setting, frozen: bool = False) -> Policy:
    """The policy of a folder; random weights and a tokenizer of words where it has none.

    `frozen` is as in `load_policy`. Raises PolicyError as `load_policy` does.
    """
    if not config_only(folder):
        return load_policy(folder, None, setting.lora, setting.precision, setting.checkpointing,
                           setting.micro_batch_tokens, frozen)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    stored_half = setting.half and (setting.lora > 0 or frozen)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if stored_half else torch.float32)
    if setting.lora:
        add_adapters(model, setting.lora)
    checkpoint_layers(model, 0 if setting.checkpointing is not False else inf)
    tokenizer = words_tokenizer(config.get_text_config().vocab_size)
    return Policy(model, tokenizer, micro_batch_tokens=setting.micro_batch_tokens,
                  autocast=setting.half and not stored_half)


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
        raise ValueError(f"--prompt-tokens {n_tokens}: this tokenizer cannot write random words of "
                         "so many tokens; try another length or model")
    return texts


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class OurStep:
    """A policy, its reference and its optimizer; each call takes one step as `grpo.train` does."""

    def __init__(self, folder: str | Path, setting: Setting):
        self.setting, self.policy = setting, bench_policy(folder, setting)
        self.policy.end_ids = {-1}  # an id that no token has: responses end at the limit
        if setting.lora:
            self.reference = self.policy.start()  # the same weights, adapters off
        else:
            self.reference = bench_policy(folder, setting)
            self.reference.model.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            learned(self.policy.model), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self.texts = random_texts(self.policy.tokenizer, setting.prompts, setting.prompt_tokens)
        self.prompts = [self.policy.tokenizer.encode(text) for text in self.texts]
        self.generator = torch.Generator(self.policy.device).manual_seed(0)
        self.groups: list[list[Step]] = []  # what was sampled last

    def rollout(self) -> list[list[Step]]:
        """P groups of G responses."""
        return self.policy.sample(self.prompts, self.setting.group, self.setting.new_tokens, 1.0,
                                  self.generator)

    def __call__(self) -> dict[str, float]:
        """Seconds by phase. Every response counts as an episode of its own."""
        policy, device = self.policy, self.policy.device
        clock = [now(device)]
        self.groups = groups = self.rollout()
        rewards = torch.tensor([[float(s.response_ids[0] % 2) for s in g] for g in groups])
        lengths = torch.tensor([len(s.response_ids) for g in groups for s in g])  # (E,)
        advantages = group_advantages(rewards).flatten().repeat_interleave(lengths).to(device)
        old_log_probs = torch.tensor([p for g in groups for s in g for p in s.log_probs],
                                     device=device)  # (N,)
        clock.append(now(device))
        with torch.no_grad():
            ref_log_probs = self.reference.token_log_probs(groups)  # (N,)
        clock.append(now(device))
        weights = token_weights(lengths, "token", self.setting.new_tokens).to(device)  # (N,)
        self.optimizer.zero_grad()
        for rows in policy.micro_batches(policy.rows(groups)):
            index = token_numbers(rows, device)
            log_probs, _ = policy.score(rows)  # (n,)
            per_token, _ = clipped_loss(log_probs, old_log_probs[index], advantages[index], CLIP)
            kl = kl_k3(log_probs, ref_log_probs[index])
            (weights[index] * (per_token + KL * kl)).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        clock.append(now(device))
        return {name: end - start for name, start, end in zip(PHASES, clock, clock[1:])}


class TurnsStep(OurStep):
    """The same with trajectories of several turns, as MEM1's: G of each of P tasks.

    A turn reads the task, the last response and `info_tokens` of other words.
    """

    def __init__(self, folder: str | Path, setting: Setting, turns: int, info_tokens: int = 48):
        super().__init__(folder, setting)
        self.turns, self.info_tokens = turns, info_tokens

    def rollout(self) -> list[list[Step]]:
        """P groups of G x turns responses."""
        group = self.setting.group
        tasks = [prompt for prompt in self.prompts for _ in range(group)]
        prompts, steps = tasks, [[] for _ in self.prompts]
        for _ in range(self.turns):
            sampled = [answer for [answer] in self.policy.sample(
                prompts, 1, self.setting.new_tokens, 1.0, self.generator)]
            for i, answer in enumerate(sampled):
                steps[i // group].append(answer)
            prompts = [task + answer.response_ids + self.prompts[0][: self.info_tokens]
                       for task, answer in zip(tasks, sampled)]
        return steps


# ---- What it is compared with --------------------------------------------------------------------


def arithmetic(policy: Policy, groups: Sequence[Sequence[Step]]) -> dict[str, float]:
    """Operations of each phase (formula above), and of the whole step in plain rows, "plain"."""
    config = policy.model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_hidden_layers * config.num_attention_heads * head_dim  # A
    adapters = low_rank_layers(policy.model)
    weights = sum(p.numel() for layer in linear_layers(policy.model).values()
                  for p in layer.parameters() if p.ndim == 2)  # W, with A and B
    head = config.hidden_size * config.vocab_size

    def forward(positions: Sequence[int], n_scored: int) -> float:
        """Of tokens at these depths: each sees itself and all above it."""
        return (2 * weights * len(positions) + 2 * head * n_scored
                + 4 * width * sum(place + 1 for place in positions))

    def branches(group: Sequence[Step]) -> list[int]:
        return [len(s.prompt_ids) + i for s in group for i in range(len(s.response_ids) - 1)]

    n_scored = [sum(len(step.response_ids) for step in group) for group in groups]
    trunks = [list(range(len(group[0].prompt_ids))) for group in groups]
    sampling = sum(forward(trunk + branches(group), n)
                   for trunk, group, n in zip(trunks, groups, n_scored))
    rows = policy.rows(groups)
    reference = sum(forward(row.position_ids, len(set(row.score_at))) for row in rows)
    alone = sum(forward(trunk * len(group) + branches(group), n)
                for trunk, group, n in zip(trunks, groups, n_scored))
    passes = 2 if adapters else 3
    return {"sampling": sampling, "reference": reference, "update": passes * reference,
            "plain": (2 + passes) * alone}


def matmul_rate(setting: Setting) -> float:
    """The best rate of a square matrix product on this device and in this precision, per second."""
    device, size = torch.device(setting.device), 8192 if setting.device == "cuda" else 1024
    dtype = torch.bfloat16 if setting.half else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, begin = float("inf"), now(device)
    while now(device) - begin < 0.5:
        start = now(device)
        a @ b
        best = min(best, now(device) - start)
    return 2 * size**3 / best
