"""A causal language model as a policy: load it, sample from it, score what it sampled, save it.

Reinforcement learning asks two things of a language model: *sample* a few responses to each prompt,
and give the *log-probability* of every sampled token, with gradients. Both are done here on a tree:

    prompt ──┬── response 1          The G responses of a GRPO group continue one prompt; the turns
             ├── response 2          of a MEM1 trajectory continue one question. A tree is one row:
             └── response G          the shared prefix once, then every branch. Positions of each
                                     branch continue the prefix, and a token attends to the prefix
                                     and to its own branch, never to a sibling.

It is exact, since a transformer mixes positions only in attention: log-probs and gradients equal
those of separate rows up to float rounding. And it reads a prompt of sixty memories once, not G times.

A model that mixes neighbours in another way (convolutions, state spaces) or cuts attention to a
sliding window cannot be packed. `Policy` finds out by trying (`_packs`), and then uses plain rows.

Where this differs from usual practice, and why
1. Nothing is ever padded on the left. The prompts of a batch are padded on the right, where causal
   attention cannot see, and masks come from lengths: a pad id that is also the end id is harmless.
2. Responses are kept as sampled ids and never encoded again; the end id is trained like any token.
3. Log-probs are those of the tempered distribution that was sampled from, with no top-p or top-k cut.
4. Dropout is off for good: sampling and training must see one and the same policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


class PolicyError(ValueError):
    """A model that cannot be loaded or used; the message is one line that says what to do."""


@dataclass(frozen=True)
class Step:
    """One call of the language model: what it read and the ids it wrote."""

    prompt_ids: list[int]
    response_ids: list[int]  # as sampled; ends with the end-of-sequence id if `finished`
    finished: bool  # False when cut at the limit of new tokens
    log_probs: list[float] = field(default_factory=list)  # of each response id when it was sampled


@dataclass
class Episode:
    """The steps one reward pays for, and what is worth logging about them."""

    steps: list[Step]
    reward: float
    log: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A packed tree: one prefix and the branches that continue it. T tokens, N of them scored."""

    input_ids: list[int]  # (T,)
    position_ids: list[int]  # (T,) a branch goes on where the prefix ended
    branches: list[int]  # (T,) 0 for the prefix, then 1, 2, ... for each branch
    score_at: list[int]  # (N,) where in the row the logits stand that predict each scored token
    targets: list[int]  # (N,) the scored tokens
    token_index: list[int]  # (N,) their places among all response tokens of the batch


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Length of the longest common prefix."""
    first, last = min(prompts), max(prompts)  # all others lie between these two, so share as much
    for place, (a, b) in enumerate(zip(first, last)):
        if a != b:
            return place
    return min(len(first), len(last))


def pack(groups: Sequence[Sequence[Step]], row_budget: int) -> list[Row]:
    """Lay out groups of steps as trees of at most `row_budget` tokens (but never cut a branch).

    Steps of a group share what their prompts have in common. The rest of a prompt stands in the
    branch, unscored, before its response: so a MEM1 turn carries its own copy of the last state.
    Branches beyond the budget go to another row that repeats the prefix. The response tokens of
    all steps, in order, are numbered 0, 1, ...: `token_index` points into that numbering.
    """
    rows: list[Row] = []
    n_tokens = 0
    for group in groups:
        n_shared = shared_prefix([step.prompt_ids for step in group])
        row: Row | None = None
        for step in group:
            # The last response token predicts nothing, so it is scored but never read.
            suffix = step.prompt_ids[n_shared:] + step.response_ids[:-1]
            if row is None or len(row.input_ids) + len(suffix) > row_budget:
                prefix = step.prompt_ids[:n_shared]
                row = Row(list(prefix), list(range(n_shared)), [0] * n_shared, [], [], [])
                rows.append(row)
            start, branch = len(row.input_ids), max(row.branches, default=0) + 1
            row.input_ids.extend(suffix)
            row.position_ids.extend(range(n_shared, n_shared + len(suffix)))
            row.branches.extend([branch] * len(suffix))
            # Token i of the response is predicted one place earlier; for the first one that is
            # the last token of the prompt, in the branch or, if all is shared, in the prefix.
            first = start + len(step.prompt_ids) - n_shared
            for i, token in enumerate(step.response_ids):
                place = first + i - 1
                row.score_at.append(n_shared - 1 if place < start else place)
                row.targets.append(token)
                row.token_index.append(n_tokens + i)
            n_tokens += len(step.response_ids)
    return rows


def tree_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask of packed rows: 0 where a token may look, the dtype's minimum else.

    `branches` is (B, T): 0 the prefix, 1.. the branches, -1 padding. Returns (B, 1, T, T).
    (A mask of ones and zeros would be *added* to the scores and forbid nothing.)
    """
    query, key = branches[:, :, None], branches[:, None, :]  # (B, T, 1), (B, 1, T)
    causal = torch.ones(branches.shape[1], branches.shape[1], device=branches.device).tril().bool()
    allowed = causal & ((key == query) | ((key == 0) & (query > 0)))  # padding sees only padding
    mask = torch.zeros(allowed.shape, dtype=dtype, device=branches.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]  # (B, 1, T, T)


def micro_batches(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, at most `max_tokens` with padding (a longer row comes alone)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) + 1) * len(row.input_ids) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def pad_right(sequences: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(B, T) from lists of different lengths."""
    width = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (width - len(s))] for s in sequences], device=device)


class Policy:
    """A Hugging Face causal language model and its tokenizer, with sampling and scoring by trees.

    `row_budget` and `micro_batch_tokens` bound memory; they never change a result.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, row_budget: int = 4096,
                 micro_batch_tokens: int = 16384):
        self.model, self.tokenizer = model, tokenizer
        self.row_budget, self.micro_batch_tokens = row_budget, micro_batch_tokens
        model.eval()  # never .train(): dropout would make the trained policy another one
        self.end_ids = end_ids(model, tokenizer)
        self.packs = self._packs()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    # ---- Text ---------------------------------------------------------------------------------

    def encode(self, messages: list[Message]) -> list[int]:
        """The ids of a chat, ready for the assistant's answer.

        Text inside a message cannot end its turn: the tokenizer's special tokens are broken up.
        A model without a chat template gets the contents as plain paragraphs.
        """
        messages = [{**m, "content": self._harmless(m["content"])} for m in messages]
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return self.tokenizer.encode(text)
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _harmless(self, text: str) -> str:
        for token in self.tokenizer.added_tokens_encoder:
            if token in text:  # a space after its first character is enough to unmake it
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def decode(self, ids: list[int]) -> str:
        """The text of a response, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    # ---- Sampling -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 64,
               temperature: float = 1.0, generator: torch.Generator | None = None,
               ) -> list[list[Step]]:
        """`group_size` responses to each prompt; `temperature` 0 takes the likeliest token.

        Equal prompts are read once when they stand in one batch. Returns one list of steps a
        prompt, in order.
        """
        if not self.packs:
            return self._generate(prompts, group_size, max_new_tokens, temperature)
        groups: list[list[Step]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        while order:
            # As many prompts as the budget holds with room to write, the shortest first.
            n = 1
            while n < len(order) and (n + 1) * (
                    len(prompts[order[n]]) + group_size * max_new_tokens) <= self.micro_batch_tokens * 4:
                n += 1
            batch, order = order[:n], order[n:]
            answers = self._sample_batch([prompts[i] for i in batch], group_size, max_new_tokens,
                                         temperature, generator)
            for i, group in zip(batch, answers):
                groups[i] = group
        return groups

    def _sample_batch(self, prompts: list[list[int]], group_size: int, max_new_tokens: int,
                      temperature: float, generator: torch.Generator | None) -> list[list[Step]]:
        """One batch of trees grown token by token: P prompts, G branches each."""
        device, n_prompts = self.device, len(prompts)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = pad_right(prompts, 0, device)  # (P, L); padding stands behind, where nobody looks
        width = ids.shape[1]
        cache = DynamicCache(config=self.model.config)
        hidden = self.model.base_model(input_ids=ids, past_key_values=cache).last_hidden_state
        last = hidden[torch.arange(n_prompts, device=device), lengths - 1]  # (P, D)
        logits = self.model.get_output_embeddings()(last)[:, None].expand(-1, group_size, -1)

        dtype, low = self.model.dtype, torch.finfo(self.model.dtype).min
        padding = torch.arange(width, device=device) >= lengths[:, None]  # (P, L)
        see_prompt = torch.zeros(n_prompts, 1, 1, width, dtype=dtype, device=device)
        see_prompt.masked_fill_(padding[:, None, None], low)
        # One block of columns a step: a branch sees its own column of each block.
        see_branch = torch.full((group_size, group_size), low, dtype=dtype, device=device)
        see_branch.fill_diagonal_(0)
        end = torch.tensor(sorted(self.end_ids), device=device)

        rows = torch.arange(n_prompts, device=device)  # which prompts are still being answered
        done = torch.zeros(n_prompts, group_size, dtype=torch.bool, device=device)
        tokens, scores, alive = [], [], []  # a step each: (P, G)
        for step in range(max_new_tokens):
            log_probs = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (R, G, V)
            if temperature == 0:
                chosen = log_probs.argmax(-1)  # (R, G)
            else:
                flat = log_probs.exp().flatten(0, 1)
                chosen = torch.multinomial(flat, 1, generator=generator).view(logits.shape[:2])
            picked = log_probs.gather(-1, chosen[..., None])[..., 0]
            # Rows that left the batch keep a place here: their `alive` says that nothing was written.
            tokens.append(ids.new_zeros(n_prompts, group_size).index_copy_(0, rows, chosen))
            scores.append(picked.new_zeros(n_prompts, group_size).index_copy_(0, rows, picked))
            alive.append(torch.zeros_like(done).index_copy_(0, rows, ~done[rows]))
            done[rows] = done[rows] | torch.isin(chosen, end)
            unfinished = ~done[rows].all(-1)
            if step + 1 == max_new_tokens or not unfinished.any():
                break
            if unfinished.float().mean() <= 0.5:  # moving the cache costs: leave by halves
                cache.batch_select_indices(unfinished.nonzero()[:, 0])
                rows, chosen, see_prompt = rows[unfinished], chosen[unfinished], see_prompt[unfinished]
            mask = torch.cat([see_prompt.expand(-1, -1, group_size, -1),
                              see_branch.repeat(1, step + 1).expand(len(rows), 1, -1, -1)], -1)
            positions = (lengths[rows, None] + step).expand(-1, group_size)
            hidden = self.model.base_model(input_ids=chosen, position_ids=positions,
                                           attention_mask=mask, past_key_values=cache)
            logits = self.model.get_output_embeddings()(hidden.last_hidden_state)
        written = torch.stack(alive, -1).sum(-1).tolist()  # (P, G) response lengths
        all_tokens, all_scores = torch.stack(tokens, -1).tolist(), torch.stack(scores, -1).tolist()
        finished = done.tolist()
        return [[Step(prompt, all_tokens[p][g][:written[p][g]], finished[p][g],
                      all_scores[p][g][:written[p][g]]) for g in range(group_size)]
                for p, prompt in enumerate(prompts)]

    def _generate(self, prompts: list[list[int]], group_size: int, max_new_tokens: int,
                  temperature: float) -> list[list[Step]]:
        """Sampling for a model that cannot be packed: the library's own loop, a prompt at a time."""
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        groups = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=self.device)
            texts = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
                num_return_sequences=group_size, eos_token_id=sorted(self.end_ids),
                pad_token_id=min(self.end_ids), **(sampling if temperature else {"do_sample": False}),
            )[:, len(prompt):].tolist()
            steps = []
            for text in texts:
                ends = [i for i, token in enumerate(text) if token in self.end_ids]
                response = text[: ends[0] + 1] if ends else text
                step = Step(prompt, response, bool(ends))
                log_probs = self.token_log_probs([[step]], temperature or 1.0).tolist()
                steps.append(Step(prompt, response, bool(ends), log_probs))
            groups.append(steps)
        return groups

    # ---- Scoring ------------------------------------------------------------------------------

    def rows(self, groups: Sequence[Sequence[Step]]) -> list[Row]:
        """The groups as packed trees, or one row a step for a model that cannot be packed."""
        if self.packs:
            return pack(groups, self.row_budget)
        return pack([[step] for group in groups for step in group], self.row_budget)

    def score(self, rows: Sequence[Row], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs of a micro-batch's scored tokens, with gradients, and entropies without.

        Both are (N,), in the order of the rows' `token_index`.
        """
        ids = pad_right([row.input_ids for row in rows], 0, self.device)  # (B, T)
        row_of = torch.tensor(
            [b for b, row in enumerate(rows) for _ in row.targets], device=self.device)  # (N,)
        score_at = torch.tensor([i for row in rows for i in row.score_at], device=self.device)
        targets = torch.tensor([t for row in rows for t in row.targets], device=self.device)
        if self.packs:
            positions = pad_right([row.position_ids for row in rows], 0, self.device)
            branches = pad_right([row.branches for row in rows], -1, self.device)
            mask = tree_mask(branches, self.model.dtype)
            hidden = self.model.base_model(
                input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
            # The head only where a token is scored: the logits of whole rows would be most memory.
            logits = self.model.get_output_embeddings()(hidden.last_hidden_state[row_of, score_at])
        else:
            logits = self.model(input_ids=ids, use_cache=False).logits[row_of, score_at]
        log_probs = (logits.float() / temperature).log_softmax(-1)  # (N, V)
        with torch.no_grad():
            entropies = -(log_probs.exp() * log_probs).sum(-1)  # (N,)
        return log_probs.gather(-1, targets[:, None])[:, 0], entropies

    def token_log_probs(self, groups: Sequence[Sequence[Step]], temperature: float = 1.0) -> Tensor:
        """Log-probs of all response tokens of all steps in order, (N,); gradients if enabled."""
        places, parts = [], []
        for batch in micro_batches(self.rows(groups), self.micro_batch_tokens):
            parts.append(self.score(batch, temperature)[0])
            places += [i for row in batch for i in row.token_index]
        order = torch.tensor(places, device=self.device).argsort()
        return torch.cat(parts)[order]

    @torch.no_grad()
    def _packs(self) -> bool:
        """Whether trees give this model the log-probs of plain rows: asked of the model itself."""
        config = self.model.config
        if "sliding_attention" in (getattr(config, "layer_types", None) or []):
            return False  # short rows would not show it
        draw = torch.Generator().manual_seed(0)
        words = torch.randint(config.vocab_size, (20,), generator=draw).tolist()
        group = [Step(words[:6], words[6:13], False), Step(words[:6], words[13:], False)]
        log_probs = {}
        for self.packs in (True, False):
            try:
                log_probs[self.packs] = self.token_log_probs([group])
            except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):
                if not self.packs:
                    raise  # plain rows must work for any model
                return False  # a mask of its own, another cache, no such argument
        # Two roundings of one number; half precision keeps three digits of the logits.
        tolerance = 2e-5 if self.model.dtype == torch.float32 else 0.1
        return (log_probs[True] - log_probs[False]).abs().max().item() < tolerance

    def save(self, folder: str | Path) -> None:
        """Write an ordinary Hugging Face folder: weights, configuration, tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def end_ids(model: torch.nn.Module, tokenizer) -> set[int]:
    """Every id that ends a response: all of the generation config's, and the tokenizer's own."""
    found: set[int] = set()
    for ids in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found |= set(ids if isinstance(ids, list) else [ids]) - {None}
    if not found:
        raise PolicyError(
            "the model names no end-of-sequence id, so no response could ever end: "
            "set eos_token_id in its generation_config.json")
    return found


def load_policy(name: str | Path, device: str | None = None) -> Policy:
    """The policy in a folder or on the Hugging Face hub, on the GPU where there is one.

    Weights are float32, whatever they were saved in: steps of 1e-6 vanish in half precision.
    Raises PolicyError with one line when there is no such model.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PolicyError(
            f"cannot load a causal language model from {name!s}: {reason} "
            "(give a Hugging Face folder, or a hub name with a network)") from error
    return Policy(model.to(device), tokenizer)
