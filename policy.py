"""A causal language model as a policy: sample from it, score what it sampled, save it.

Reinforcement learning asks two things of a language model: *sample* a few responses to each prompt,
and give the *log-probability* of every sampled token, with gradients. Both are done here on packed
trees, which read a prompt of sixty memories once and not for each of its responses. trees.py lays
the trees out, and its first page has the words that both files use.

    prompts ── prompt_micro_batches ──> rows ── the model ──> steps                    `sample`
    trees of steps ── pack ──> rows ── micro_batches ── the model ──> log-probs        `score`

A model that mixes neighbours in another way (convolutions, state spaces), or cuts attention to a
sliding window, cannot read trees. `Policy` tries trees out on every model, and takes the slow path
where they fail: plain rows (backend/plain_rows.py).

Where this differs from usual practice, and why
1. Nothing is ever padded on the left. Rows are padded on the right, where causal attention cannot
   see, and masks come from lengths. So a pad id that is also the end id does no harm.
2. Responses stay the ids that were sampled and are never encoded again, because text that is
   decoded and encoded may become other tokens. The end id is trained like any token.
3. Log-probs are those of the tempered distribution that was sampled from, without top-p or top-k.
4. Dropout is off for good, because sampling and training must see the same policy.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import Cache

from backend.attention import RoomyLayer, cache_argument, mark_causal, use_tree_attention
from backend.chat_templates import break_markers, render
from backend.devices import free_memory, in_step, is_main
from backend.heads import is_linear, trunk, whole_head
from backend.loading import (
    PolicyError,
    add_old_rope,
    end_ids,
    gpu_has_half,
    in_one_line,
    is_out_of_memory,
    load,
    n_positions,
    save_tokenizer,
)
from backend.lora import (
    ADAPTER,
    adapters,
    again,
    bytes_a_token,
    checkpoint_layers,
    low_rank_layers,
    save_adapters,
    save_merged,
    second_set,
)
from backend.plain_rows import generate, unpackable_layers
from backend.thinking import marks_thinking
from data import Message
from trees import (
    Row,
    Step,
    empty_row,
    micro_batches,
    pack,
    pad_right,
    plain_rows,
    prompt_micro_batches,
    token_numbers,
    tree_mask,
)

STOP_TOKENS = 16  # the longest stop text, in tokens
# What libraries raise where a model lacks an argument, a layer or a kind of cache.
RUN_ERRORS = (AttributeError, TypeError, ValueError, IndexError, RuntimeError)
HEAD_LOGITS = 2**26  # logits at once in scoring: 0.25 GiB in float32; some four such tensors live


# Problem 3
def picked_log_probs(logits: Tensor, at: Tensor, targets: Tensor, temperature: float,
                     ) -> tuple[Tensor, Tensor]:
    """Log-probs (N,) of tokens `targets` (N,) at places `at` (N,) of logits (M, V), and entropies.

    The entropies (N,) carry no gradient.
    """
    log_probs = (logits.float() / temperature).log_softmax(-1)  # (M, V)
    picked = log_probs[at, targets]
    # Last, because what runs again in the backward pass stops behind the part that has a gradient.
    with torch.no_grad():
        entropies = -log_probs.exp().mul_(log_probs).sum(-1)  # (M,)
    return picked, entropies[at]


def head_log_probs(head: Callable[[Tensor], Tensor], hidden: Tensor, at: Tensor, targets: Tensor,
                   temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
    """`picked_log_probs` of head(hidden), with the logits of at most `chunk` places at a time.

    `hidden` is (M, D), and every place predicts at least one token. A vocabulary of 150,000 makes
    0.6 MB of float32 logits a place, and about four such tensors live at once. The logits of whole
    rows would be most of the memory (pitfall 38). Chunks change neither result nor gradient.
    """
    def of_chunk(hidden: Tensor, at: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return picked_log_probs(head(hidden), at, targets, temperature)

    if len(hidden) <= chunk:
        return of_chunk(hidden, at, targets)
    order = at.argsort()  # tokens by their places: those of one chunk stand together
    sizes = (at // chunk).bincount().tolist()  # how many tokens each chunk predicts
    chunks = enumerate(zip(hidden.split(chunk), order.split(sizes)))
    results = [again(of_chunk, places, at[tokens] - number * chunk, targets[tokens])
               for number, (places, tokens) in chunks]
    original_order = order.argsort()
    log_probs, entropies = (torch.cat(parts)[original_order] for parts in zip(*results))
    return log_probs, entropies


# ---- Branches: responses while they are written --------------------------------------------------


@dataclass
class Branches:
    """Responses while they are written: B in each of R rows. R' of the rows are still read."""

    cache: Cache  # of the R' rows
    logits: Tensor  # (R', B, V) of the next tokens
    lengths: Tensor  # (R, B) tokens of the prompt that a branch continues
    finished: Tensor  # (R, B)
    live_rows: Tensor  # (R',) numbers of the rows that are still read
    see_prompt: Tensor  # (R', 1, B, L) additive mask: a branch sees its prompt
    see_branch: Tensor  # (B, B) additive mask: a branch sees itself
    tokens: list[Tensor] = field(default_factory=list)  # (R, B) for each draw
    log_probs: list[Tensor] = field(default_factory=list)  # (R, B) for each draw

    def add(self, tokens: Tensor, log_probs: Tensor) -> None:
        """Put a token (R', B) behind each branch of the live rows; 0 behind the others."""
        for values, new in ((self.tokens, tokens), (self.log_probs, log_probs)):
            values.append(new.new_zeros(self.finished.shape).index_copy_(0, self.live_rows, new))


def draw_tokens(logits: Tensor, temperature: float,
                generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A token for each branch, (R, B), from logits (R, B, V); and its log-prob, (R, B).

    Temperature 0 takes the likeliest token, with its log-prob at temperature 1.
    """
    log_probs = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (R, B, V)
    if temperature == 0:
        tokens = log_probs.argmax(-1)  # (R, B)
    else:
        # One draw a branch, looked up in the running sum of the probabilities: a tenth of the time
        # of torch.multinomial, which draws a number for every word there is.
        sums = log_probs.exp().cumsum(-1, dtype=torch.float64)  # (R, B, V)
        draws = torch.rand(*sums.shape[:2], 1, dtype=torch.float64, device=logits.device,
                           generator=generator) * sums[..., -1:]
        tokens = torch.searchsorted(sums, draws, right=True)[..., 0]  # (R, B)
    return tokens, log_probs.gather(-1, tokens[..., None])[..., 0]


def drop_finished_rows(branches: Branches) -> None:
    """Drop rows whose branches are all finished, once they are half of the rows in the cache.

    Not sooner, because each drop copies the cache of the other rows.
    """
    unfinished = ~branches.finished[branches.live_rows].all(-1)  # (R',)
    if unfinished.float().mean() <= 0.5:
        branches.cache.batch_select_indices(unfinished.nonzero()[:, 0])
        branches.live_rows = branches.live_rows[unfinished]
        branches.see_prompt = branches.see_prompt[unfinished]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, the dtype's minimum elsewhere; of the same shape."""
    mask = torch.zeros_like(allowed, dtype=dtype)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


class Policy:
    """A Hugging Face causal language model and its tokenizer, with sampling and scoring by trees.

    `row_budget`, `micro_batch_tokens` and `head_chunk` (places whose logits are made at once) bound
    memory. They never change a log-prob, a gradient or a greedy response. Sampled responses may
    differ, because random draws are assigned in another order.

    `positions` is how many tokens a prompt and its response may have together; `fit` makes prompts
    that leave room. With `autocast` float32 weights are multiplied in bfloat16. `adapted` says
    whether the adapters are on, `packs` whether the model reads trees, and `why_plain` why it does
    not. Raises PolicyError if no layout suits the model.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, row_budget: int = 4096,
                 micro_batch_tokens: int = 16384, autocast: bool = False):
        self.model, self.tokenizer = model, tokenizer
        self.row_budget, self.micro_batch_tokens = row_budget, micro_batch_tokens
        self.head_chunk = max(1, HEAD_LOGITS // model.config.get_text_config().vocab_size)
        self.autocast, self.adapted = autocast, True
        model.eval()  # never .train(): dropout would make the trained policy another one
        self.end_ids = end_ids(model, tokenizer)
        self.positions = n_positions(model.config)
        self._thinking_marks = {number: token for number, token in self._specials.items()
                                if marks_thinking(token)}
        self.empty_batch = [empty_row()]  # for a device that has fewer micro-batches than others
        self._ids_that_complete: dict[tuple[str, ...], set[int]] = {}
        self._cache_argument = cache_argument(model)
        self._head_is_linear = self._try_model()
        self.packs = False  # until the trial has compared trees with plain rows
        self.why_plain = self._why_plain()
        self.packs = not self.why_plain
        if self.packs:
            use_tree_attention(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the layers compute."""
        return torch.bfloat16 if self.autocast else self.model.dtype

    @contextmanager
    def _as_set(self) -> Iterator[None]:
        """Inside, the model computes as `autocast` and `adapted` say."""
        with (torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast),
              adapters(self.model, self.adapted)):
            yield

    def start(self) -> Policy:
        """The start model: the same weights, no copy, with the adapters off."""
        view = copy(self)
        view.adapted = False
        return view

    def second(self) -> Policy:
        """A policy on the same frozen weights, with adapters of its own: PPO's critic."""
        twin = copy(self)
        twin.model = second_set(self.model)
        return twin

    # ---- Text ---------------------------------------------------------------------------------

    def encode(self, messages: list[Message]) -> list[int]:
        """The ids of a chat, ready for the assistant's answer.

        Text inside a message cannot end its turn, because special tokens in it are broken up.
        Without a chat template the contents become plain paragraphs. A template that refuses system
        messages gets the system's text as the beginning of the user's. A template that asks for
        today's date gets a fixed one. Raises PolicyError if the template fails.
        """
        messages = [{**m, "content": self._harmless(m["content"])} for m in messages]
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return self.tokenizer.encode(text)
        try:
            text = render(self.tokenizer, messages)
        except TemplateError as error:
            if len(messages) < 2 or messages[0]["role"] != "system":
                raise PolicyError(f"the chat template refuses this chat: {in_one_line(error)}"
                                  ) from error
            system, user, *rest = messages
            text = f"{system['content']}\n\n{user['content']}"
            return self.encode([{**user, "content": text}, *rest])
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _harmless(self, text: str) -> str:
        """A text without special tokens or markers of the chat template."""
        # A template has markers that are no special tokens. Several templates come as a dictionary.
        return break_markers(self._without_specials(text), str(self.tokenizer.chat_template or ""))

    @property
    def _specials(self) -> dict[int, str]:
        """Special tokens by id. Runs of spaces, or <think>, may be added too and end nothing."""
        return {number: added.content
                for number, added in self.tokenizer.added_tokens_decoder.items() if added.special}

    def _without_specials(self, text: str, kept: Container[str] = ()) -> str:
        """A text without special tokens but those `kept`: "<|im_end|>" becomes "< |im_end|>"."""
        for token in self._specials.values():
            if token in text and token not in kept:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def decode(self, ids: list[int]) -> str:
        """The text of a response, without special tokens, but with those that mark thinking.

        A parser must see where a thought ends, or it would take the thought for the answer.
        """
        marks, text = self._thinking_marks, ""
        for are_marks, run in groupby(ids, marks.__contains__):
            text += ("".join(marks[token] for token in run) if are_marks
                     else self.tokenizer.decode(list(run), skip_special_tokens=True))
        return text

    def lesson(self, messages: list[Message], response: str) -> Step:
        """A chat with a response to imitate, its end included.

        Behind an end id nothing is ever sampled. So an end that the text has already is taken off,
        and special tokens inside it are broken up, as in a message. Raises PolicyError if the
        tokenizer has no end token.
        """
        if self.tokenizer.eos_token_id is None:
            raise PolicyError("the tokenizer has no end token, so that no response to imitate "
                              "could end: set eos_token in its tokenizer_config.json")
        ends = tuple(token for number, token in self._specials.items() if number in self.end_ids)
        while (cut := response.rstrip()).endswith(ends):
            response = cut[:-len(next(end for end in ends if cut.endswith(end)))].rstrip()
        response = self._without_specials(response, kept=self._thinking_marks.values())
        ids = self.tokenizer.encode(response, add_special_tokens=False)
        step = Step(self.encode(messages), [*ids, self.tokenizer.eos_token_id], True)
        self._check_room(len(step.prompt_ids), len(step.response_ids))
        return step

    def _check_room(self, n_prompt: int, n_response: int) -> None:
        """Raise PolicyError if a prompt and its response are longer than what the model can read.

        Some models fail there with an IndexError. Most read on, and write nonsense.
        """
        if n_prompt + n_response > self.positions:
            raise PolicyError(
                f"a prompt of {n_prompt:,} tokens and a response of {n_response:,} do not fit into "
                f"the model's {self.positions:,} positions: shorten the prompt, lower "
                "--max-new-tokens, or take a model with more positions")

    # ---- Sampling -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 64,
               temperature: float = 1.0, generator: torch.Generator | None = None,
               stop_texts: tuple[str, ...] = ()) -> list[list[Step]]:
        """`group_size` responses to each prompt; `temperature` 0 takes the likeliest token.

        A response ends with an end id, or with the token that completes one of the `stop_texts`.
        Returns one list of steps a prompt, in the order of the prompts. The same generator state
        gives the same responses to the same call. Raises PolicyError for an empty prompt, and for
        one that has no room for `max_new_tokens` behind it.
        """
        if not all(prompts) or max_new_tokens < 1:
            raise PolicyError("cannot sample: a prompt is empty or max_new_tokens is below 1")
        if prompts:
            self._check_room(max(map(len, prompts)), max_new_tokens)
        if not self.packs:
            return self._sample_plain_rows(
                prompts, group_size, max_new_tokens, temperature, generator, stop_texts)
        steps: list[list[Step]] = [[] for _ in prompts]
        # The budget is twice that of scoring, because a cache needs less memory than gradients do.
        for rows in prompt_micro_batches(
                prompts, group_size * max_new_tokens, 2 * self.micro_batch_tokens):
            with self._as_set():
                branches = self._read_prompts(rows, group_size, max_new_tokens)
                self._grow(branches, max_new_tokens, temperature, generator, stop_texts)
            tokens = torch.stack(branches.tokens, -1).tolist()  # (R, B, up to max_new_tokens)
            log_probs = torch.stack(branches.log_probs, -1).tolist()
            for r, row in enumerate(rows):
                # The branches of a row's first prompt come first, then those of the second.
                for n, number in enumerate(row.token_index):
                    steps[number] = [
                        self._step(prompts[number], tokens[r][b], stop_texts, log_probs[r][b])
                        for b in range(n * group_size, (n + 1) * group_size)]
        return steps

    def _read_prompts(self, rows: Sequence[Row], group_size: int, max_new_tokens: int) -> Branches:
        """Read R rows of prompts. `group_size` branches will grow from the end of each prompt.

        B is `group_size` times the prompts of the row that has the most. Branches that another row
        lacks count as finished.
        """
        device = self.device
        ids = pad_right([row.input_ids for row in rows], 0, device)  # (R, L)
        positions = pad_right([row.position_ids for row in rows], 0, device)  # (R, L)
        ends = pad_right([row.ends for row in rows], ids.shape[1], device)  # (R, L)
        # Rows of one prompt need no mask, because causal attention is right for them, and faster.
        forked = any(len(row.score_at) > 1 for row in rows)
        n_branches = group_size * max(len(row.score_at) for row in rows)
        # The last token that a branch draws is never read.
        most = ids.shape[1] + n_branches * (max_new_tokens - 1)
        cache = Cache(layer_class_to_replicate=partial(RoomyLayer, most))
        hidden = trunk(self.model)(
            input_ids=ids, position_ids=positions, use_cache=True,
            attention_mask=self._mask(rows, ends) if forked else None,
            **{self._cache_argument: cache}).last_hidden_state  # (R, L, D)
        # A branch's root is the place where its prompt ends; -1 where there is no branch.
        roots = pad_right([row.score_at for row in rows], -1, device).repeat_interleave(
            group_size, dim=1)  # (R, B)
        lengths = positions.gather(1, roots.clamp(min=0)) + 1  # (R, B)
        live_rows = torch.arange(len(rows), device=device)
        logits = self.head(hidden[live_rows[:, None], roots])  # (R, B, V)
        if not logits.isfinite().all():
            raise PolicyError("the model's logits are not finite, so nothing can be sampled: its "
                              "weights were spoilt, mostly by too high an --lr")
        # A branch sees the path to its root.
        places, root = torch.arange(ids.shape[1], device=device), roots[:, :, None]
        path = (places <= root) & (root < ends[:, None])  # (R, B, L)
        # The cache grows by B columns with every token, and of these a branch sees its own.
        own = torch.eye(roots.shape[1], dtype=torch.bool, device=device)  # (B, B)
        return Branches(cache, logits, lengths, roots < 0, live_rows,
                        additive_mask(path, self.dtype)[:, None], additive_mask(own, self.dtype))

    def _grow(self, branches: Branches, max_new_tokens: int, temperature: float,
              generator: torch.Generator | None, stop_texts: tuple[str, ...]) -> None:
        """Draw token after token, until all branches are finished or have `max_new_tokens`."""
        end = torch.tensor(sorted(self.end_ids), device=self.device)
        closing = torch.tensor(sorted(self._closing_ids(stop_texts)), device=self.device)
        for n_drawn in range(1, max_new_tokens + 1):
            branches.add(*draw_tokens(branches.logits, temperature, generator))
            tokens, finished = branches.tokens[-1], branches.finished  # (R, B)
            finished |= torch.isin(tokens, end)
            if stop_texts:
                # Few tokens can complete a stop text, so few branches are decoded.
                for r, b in (torch.isin(tokens, closing) & ~finished).nonzero().tolist():
                    last = torch.stack([t[r, b] for t in branches.tokens[-STOP_TOKENS:]]).tolist()
                    finished[r, b] = self._ends_response(last, stop_texts)
            if n_drawn == max_new_tokens or finished.all():
                break
            drop_finished_rows(branches)
            self._read_tokens(branches)

    def _read_tokens(self, branches: Branches) -> None:
        """Read the tokens drawn last, which gives the logits of the next ones."""
        live_rows, n_drawn = branches.live_rows, len(branches.tokens)
        see_branches = branches.see_branch.repeat(1, n_drawn)  # (B, n_drawn B)
        mask = torch.cat([branches.see_prompt, see_branches.expand(len(live_rows), 1, -1, -1)], -1)
        hidden = trunk(self.model)(
            input_ids=branches.tokens[-1][live_rows],
            position_ids=branches.lengths[live_rows] + n_drawn - 1, attention_mask=mask,
            use_cache=True, **{self._cache_argument: branches.cache}).last_hidden_state
        branches.logits = self.head(hidden)  # (R', B, V)

    def _step(self, prompt: list[int], ids: list[int], stop_texts: tuple[str, ...],
              log_probs: Sequence[float] = ()) -> Step:
        """A response as a step, without what was drawn behind its end while others went on."""
        for length in range(1, len(ids) + 1):
            if self._has_ended(ids[max(0, length - STOP_TOKENS):length], stop_texts):
                return Step(prompt, ids[:length], True, list(log_probs[:length]))
        return Step(prompt, ids, False, list(log_probs))

    def _closing_ids(self, stop_texts: tuple[str, ...]) -> set[int]:
        """The ids that may complete a stop text: those with the last letter of one."""
        if stop_texts not in self._ids_that_complete:
            letters = {text[-1] for text in stop_texts}
            self._ids_that_complete[stop_texts] = {
                i for i in range(len(self.tokenizer) if stop_texts else 0)
                if letters & set(self.tokenizer.decode([i]))}
        return self._ids_that_complete[stop_texts]

    def _has_ended(self, ids: list[int], stop_texts: tuple[str, ...]) -> bool:
        """`_ends_response` without decoding, where the last of `ids` cannot end a response."""
        may_end = ids[-1] in self.end_ids or ids[-1] in self._closing_ids(stop_texts)
        return may_end and self._ends_response(ids, stop_texts)

    def _ends_response(self, ids: list[int], stop_texts: tuple[str, ...]) -> bool:
        """Whether a response whose last tokens are `ids` ends with the last of them."""
        return ids[-1] in self.end_ids or any(text in self.decode(ids) for text in stop_texts)

    def _sample_plain_rows(self, prompts: list[list[int]], group_size: int, max_new_tokens: int,
                           temperature: float, generator: torch.Generator | None,
                           stop_texts: tuple[str, ...]) -> list[list[Step]]:
        """`sample` by the library's loop; scoring gives the log-probs of what the loop wrote."""
        with self._as_set():
            responses = generate(
                self.model, prompts, group_size, max_new_tokens, temperature, generator,
                lambda ids: self._has_ended(ids[-STOP_TOKENS:], stop_texts),
                2 * self.micro_batch_tokens)  # as for trees
        groups = [[self._step(prompt, ids, stop_texts) for ids in of_prompt]
                  for prompt, of_prompt in zip(prompts, responses)]
        if not groups:
            return []
        parts = iter(self.token_log_probs(groups, temperature or 1.0).split(
            [len(step.response_ids) for group in groups for step in group]))
        return [[replace(step, log_probs=next(parts).tolist()) for step in group]
                for group in groups]

    # ---- Scoring ------------------------------------------------------------------------------

    def rows(self, trees: Sequence[Sequence[Step]]) -> list[Row]:
        """The steps as packed rows; a row for each step if the model cannot read trees.

        Raises PolicyError for a step that is longer than what the model can read.
        """
        for tree in trees:
            for step in tree:
                self._check_room(len(step.prompt_ids), len(step.response_ids))
        if not self.packs:
            return plain_rows(trees)
        budget = min(self.row_budget, self.micro_batch_tokens)
        return pack(trees, budget, self.model.config.get_text_config().hidden_size)

    def micro_batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """The rows of an update in micro-batches of at most `micro_batch_tokens`.

        Every device gets as many as any other, because their gradients are summed in step.
        """
        return in_step(micro_batches(rows, self.micro_batch_tokens), self.empty_batch)

    def read(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The last hidden states of a micro-batch where a token is predicted, with gradients.

        Returns `hidden` (M, D) of the M places, and which of them each of the N predictions has
        (N,), in the order of the rows' `token_index`. Samples that agree so far share a place.
        """
        ids = pad_right([row.input_ids for row in rows], 0, self.device)  # (R, T)
        score_at = [r * ids.shape[1] + place for r, row in enumerate(rows)
                    for place in row.score_at]
        places, token_at = torch.tensor(
            score_at, dtype=torch.long, device=self.device).unique(return_inverse=True)
        positions = pad_right([row.position_ids for row in rows], 0, self.device)  # (R, T)
        ends = pad_right([row.ends for row in rows], ids.shape[1], self.device)  # (R, T)
        # Plain rows need no mask: causal attention cannot see the padding behind them.
        layout = {"position_ids": positions, "attention_mask": self._mask(rows, ends),
                  } if self.packs else {}
        with self._as_set():
            hidden = trunk(self.model)(
                input_ids=ids, use_cache=False, **layout).last_hidden_state  # (R, T, D)
        return hidden.flatten(0, 1)[places], token_at

    def _mask(self, rows: Sequence[Row], ends: Tensor) -> Tensor:
        """The mask (R, 1, T, T) of packed rows, whose `ends` are (R, T)."""
        return mark_causal(tree_mask(ends, self.dtype), min(row.n_causal for row in rows))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D): the model's own, scaled or capped as it does.

        Call it inside `_as_set`.
        """
        if self._head_is_linear:
            return self.model.get_output_embeddings()(hidden)
        return whole_head(self.model, hidden.flatten(0, -2)).unflatten(0, hidden.shape[:-1])

    # Problem 3
    def score(self, rows: Sequence[Row], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs of a micro-batch's scored tokens, with gradients, and entropies without.

        Both are (N,), in the order of the rows' `token_index`.
        """
        targets = torch.tensor([t for row in rows for t in row.targets], dtype=torch.long,
                               device=self.device)  # (N,)
        with self._as_set():
            hidden, token_at = self.read(rows)  # (M, D), (N,)
            return head_log_probs(  # the head only where a token is scored
                self.head, hidden, token_at, targets, temperature, self.head_chunk)

    def token_log_probs(self, trees: Sequence[Sequence[Step]], temperature: float = 1.0) -> Tensor:
        """Log-probs of all response tokens of all steps in order, (N,); gradients if enabled."""
        numbers, parts = [], []
        for batch in micro_batches(self.rows(trees), self.micro_batch_tokens):
            parts.append(self.score(batch, temperature)[0])
            numbers.append(token_numbers(batch, self.device))
        return torch.cat(parts)[torch.cat(numbers).argsort()]

    def _trial_ids(self) -> list[int]:
        """Twenty ids to try the model on, always the same."""
        draw = torch.Generator().manual_seed(0)
        n_words = self.model.config.get_text_config().vocab_size
        return torch.randint(n_words, (20,), generator=draw).tolist()

    def _differ(self, first: Tensor, second: Tensor) -> bool:
        """Whether two ways to the same log-probs differ by more than rounding.

        A wrong mask costs whole nats in a trained model. In half precision rounding may cost one
        unlikely token half a nat, but never the mean.
        """
        errors = (first.float() - second.float()).abs()
        return (errors.max() > 1e-3 if self.dtype == torch.float32 else errors.mean() > 0.5).item()

    @torch.no_grad()
    def _try_model(self) -> bool:
        """Whether the head alone makes the logits. Raises PolicyError if the model is unusable."""
        row = torch.tensor([self._trial_ids()], device=self.device)  # (1, 20)
        try:
            with self._as_set():
                whole, part = (  # (19,) log-probs of a row, and (9,) of its first half
                    self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                    .log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
                    for ids in (row, row[:, :10]))
                if not whole.isfinite().all():
                    raise PolicyError("the model's log-probs are not finite: its weights are "
                                      "spoilt; take an earlier checkpoint")
                if self._differ(part, whole[:len(part)]):
                    raise PolicyError("an encoder: its tokens see later ones; use a causal "
                                      "language model")
                return is_linear(self.model, row)
        except RUN_ERRORS as error:
            if isinstance(error, PolicyError) or is_out_of_memory(error):
                raise
            advice = ("its layers cannot have adapters; take --lora 0"
                      if low_rank_layers(self.model) else "use another causal language model")
            raise PolicyError(f"the model cannot be run: {in_one_line(error)} ({advice})"
                              ) from error

    @torch.no_grad()
    def _why_plain(self) -> str:
        """Why this model needs plain rows; "" if trees give it the same log-probs.

        The configuration is asked before trees are tried, because a trial of twenty ids would not
        show a window of thousands.
        """
        if layers := unpackable_layers(self.model.config):
            return layers
        ids, draw = self._trial_ids(), torch.Generator(self.device).manual_seed(0)
        tree = [Step(ids[:6], ids[6:13], False), Step(ids[:6], ids[13:], False)]
        plain = self.token_log_probs([tree])
        try:
            self.packs = True
            sampled = self.sample([ids[:6], ids[:3], ids[:4]], 2, 4, 1.0, draw)
            packed = self.token_log_probs([tree])
        except RUN_ERRORS as error:
            if is_out_of_memory(error):
                raise
            # Such as a mask of the model's own, another cache, or no such argument.
            return f"a trial of trees failed: {in_one_line(error)}"
        finally:
            self.packs = False
        if self._differ(packed, plain):
            return "in a trial trees were scored otherwise than plain rows"
        when_sampled = torch.tensor([p for steps in sampled for s in steps for p in s.log_probs])
        if self._differ(when_sampled.to(plain), self.token_log_probs(sampled)):
            return "in a trial trees were sampled otherwise than plain rows are scored"
        return ""

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write an ordinary Hugging Face folder: weights, settings and tokenizer.

        `weights` by name stand in for the model's own where those are spread over devices. Adapters
        are added to the weights, in float32, and also kept alone in `folder`/adapter. transformers
        4.57 reads the folder too, unless its rotary settings differ from layer to layer.
        """
        if low_rank_layers(self.model):
            save_merged(self.model, folder, weights)
            save_adapters(self.model, Path(folder) / ADAPTER)
        else:
            self.model.save_pretrained(folder, state_dict=weights)
        add_old_rope(folder)
        save_tokenizer(self.tokenizer, folder)


# ---- Prompts that leave room ---------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """A chat that leaves room for a response."""

    parts: Sequence  # what of the parts fits
    n_dropped: int  # how many parts do not
    messages: list[Message]
    ids: list[int]


def fit(policy: Policy, prompt_of: Callable[[Sequence], list[Message]], parts: Sequence,
        room: float) -> Prompt:
    """The prompt with as many of its parts as fit into `room` tokens.

    `parts` are memories, for example; those to keep longest come first. `prompt_of` makes the chat
    of some of them. A prompt that fits whole is encoded once. One that does not fit even without
    its parts is returned nevertheless, and `Policy.sample` refuses it with a reason.
    """

    def with_first(n: int) -> Prompt:
        messages = prompt_of(parts[:n])
        return Prompt(parts[:n], len(parts) - n, messages, policy.encode(messages))

    whole = with_first(len(parts))
    if len(whole.ids) <= room:
        return whole
    # Fewer parts never make a longer prompt, so halving the range finds how many are too many.
    too_many = bisect_right(range(len(parts)), room, key=lambda n: len(with_first(n).ids))
    return with_first(max(too_many - 1, 0))


def load_policy(name: str | Path, device: str | None = None, lora: int = 0,
                precision: str | None = None, checkpointing: bool | None = False,
                micro_batch_tokens: int = 16384, frozen: bool = False) -> Policy:
    """The policy in a folder or on the Hugging Face hub, on the GPU where there is one.

    `lora` is the rank of adapters to learn; with 0 all weights learn. `precision` is that of the
    arithmetic: bfloat16 (default on a GPU that has it) or float32. Weights that learn are float32,
    because steps of 1e-6 vanish in half precision. Weights beside adapters have the precision of
    the arithmetic, and so have all of a `frozen` model, one that nobody is going to train.

    With `checkpointing` layers are computed again in the backward pass (`checkpoint_layers` in
    backend/lora.py). None does so where it is needed: for micro-batches whose activations would
    take more than half of the memory that is free now.

    A folder of PEFT adapters gives the model that the adapters name, with the adapters in its
    weights. In bfloat16, or below new adapters, they stay beside the weights, frozen and on; so do
    those of our own checkpoints. Raises PolicyError with one line when there is no such model.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    half = precision == "bfloat16" if precision else gpu_has_half(device)
    stored_half = half and (lora > 0 or frozen)
    model, tokenizer = load(name, device, lora, torch.bfloat16 if stored_half else torch.float32)
    policy = Policy(model, tokenizer, micro_batch_tokens=micro_batch_tokens,
                    autocast=half and not stored_half)
    if checkpointing is None:
        checkpoint_layers(model, free_memory(policy.device) / 2 / bytes_a_token(model))
    elif checkpointing:
        checkpoint_layers(model)
    if policy.why_plain and is_main():
        print(f"{name}: read in plain rows, several times slower than in trees, because "
              f"{policy.why_plain}", file=sys.stderr)
    return policy
