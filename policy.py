"""A causal language model as a policy: load it, sample from it, score what it sampled, save it.

Reinforcement learning asks two things of a language model: *sample* a few responses to each prompt,
and give the *log-probability* of every sampled token, with gradients. Both are done here on packed
trees (`trees.py`), which reads a prompt of sixty memories once and not for each of its responses.

A model that mixes neighbours in another way (convolutions, state spaces) or cuts attention to a
sliding window cannot be packed. `Policy` finds out by trying (`_packs`) and then uses plain rows.

Where this differs from usual practice, and why
1. Nothing is ever padded on the left. The prompts of a batch are padded on the right, where causal
   attention cannot see, and masks come from lengths: a pad id that is also the end id is harmless.
2. Responses are kept as sampled ids and never encoded again; the end id is trained like any token.
3. Log-probs are those of the tempered distribution that was sampled from, without top-p or top-k.
4. Dropout is off for good: sampling and training must see one and the same policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import AutoConfig, Cache, GenerationConfig, PreTrainedTokenizerFast

from backend.attention import RoomyLayer, use_tree_attention
from backend.devices import in_step
from backend.lora import (
    adapters,
    add_adapters,
    again,
    base_name,
    checkpoint_layers,
    load_model,
    low_rank_layers,
    save_adapters,
    save_merged,
    saved_config,
    second_set,
)
from data import Message
from trees import (
    Row,
    Step,
    alike,
    micro_batches,
    pack,
    pad_right,
    prompt_row,
    shared_trees,
    tree_mask,
)

STOP_TOKENS = 16  # the longest stop text, in tokens
HEAD_LOGITS = 2**26  # at once in scoring: 0.25 GiB in float32, and about four such tensors live


class PolicyError(ValueError):
    """A model that cannot be loaded or used; the message is one line that says what to do."""


# Problem 3
def picked_log_probs(logits: Tensor, at: Tensor, targets: Tensor, temperature: float,
                     ) -> tuple[Tensor, Tensor]:
    """Log-probs (N,) of tokens `targets` (N,) at places `at` (N,) of logits (M, V), and entropies.

    The entropies (N,) carry no gradient.
    """
    log_probs = (logits.float() / temperature).log_softmax(-1)  # (M, V)
    picked = log_probs[at, targets]
    with torch.no_grad():  # last: what runs again in backward stops before this
        entropies = -log_probs.exp().mul_(log_probs).sum(-1)  # (M,)
    return picked, entropies[at]


def head_log_probs(head: Callable[[Tensor], Tensor], hidden: Tensor, at: Tensor, targets: Tensor,
                   temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
    """`picked_log_probs` of head(hidden), the logits of at most `chunk` places at a time.

    `hidden` is (M, D); each of its places must be asked for. A vocabulary of 150,000 makes 0.6 MB
    of float32 logits a place, and about four such tensors live at once: whole rows of them would
    be most of the memory (pitfall 38). The gradient is exactly that of one piece.
    """
    if len(hidden) <= chunk:
        return picked_log_probs(head(hidden), at, targets, temperature)

    def piece(hidden: Tensor, at: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return picked_log_probs(head(hidden), at, targets, temperature)

    order = at.argsort()  # tokens of neighbouring places together
    sizes = (at // chunk).bincount().tolist()
    pieces = zip(hidden.split(chunk), order.split(sizes))
    parts = [again(piece, places, at[tokens] - number * chunk, targets[tokens])
             for number, (places, tokens) in enumerate(pieces)]
    back = order.argsort()
    log_probs, entropies = (torch.cat(part)[back] for part in zip(*parts))
    return log_probs, entropies


class Policy:
    """A Hugging Face causal language model and its tokenizer, with sampling and scoring by trees.

    `row_budget`, `micro_batch_tokens` and `head_chunk` (places whose logits are made at once) bound
    memory. They never change a log-prob, a gradient or a greedy response; only which of the
    generator's draws falls to which sample. With `autocast` float32 weights are multiplied in
    bfloat16. `adapted` is False in a view of the model as it was before its adapters.
    """

    def __init__(self, model: torch.nn.Module, tokenizer, row_budget: int = 4096,
                 micro_batch_tokens: int = 16384, autocast: bool = False):
        self.model, self.tokenizer = model, tokenizer
        self.row_budget, self.micro_batch_tokens = row_budget, micro_batch_tokens
        self.head_chunk = max(1, HEAD_LOGITS // model.config.get_text_config().vocab_size)
        self.autocast, self.adapted = autocast, True
        model.eval()  # never .train(): dropout would make the trained policy another one
        self.end_ids = end_ids(model, tokenizer)
        self._closings: dict[tuple[str, ...], set[int]] = {}
        self.packs = False
        self.packs = self._packs()
        if self.packs:
            use_tree_attention(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In what the layers compute."""
        return torch.bfloat16 if self.autocast else self.model.dtype

    @contextmanager
    def _as_set(self) -> Iterator[None]:
        """How the model is run: in which precision, and with or without its adapters."""
        with (torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast),
              adapters(self.model, self.adapted)):
            yield

    def start(self) -> Policy:
        """The model before any training: the same weights, adapters off. Frozen, and no copy."""
        view = copy(self)
        view.adapted = False
        return view

    def second(self) -> Policy:
        """The same frozen weights with adapters of its own: PPO's critic."""
        twin = copy(self)
        twin.model = second_set(self.model)
        return twin

    # ---- Text ---------------------------------------------------------------------------------

    def encode(self, messages: list[Message]) -> list[int]:
        """The ids of a chat, ready for the assistant's answer.

        Text inside a message cannot end its turn: special tokens in it are broken up.
        A model without a chat template gets the contents as plain paragraphs; one that refuses a
        system message gets it as the beginning of the user's.
        """
        messages = [{**m, "content": self._harmless(m["content"])} for m in messages]
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return self.tokenizer.encode(text)
        try:  # Qwen3 would think aloud until no tokens are left; other templates ignore the switch
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        except TemplateError as error:
            if len(messages) < 2 or messages[0]["role"] != "system":
                raise PolicyError(f"the chat template refuses this chat: {error}") from error
            system, user, *rest = messages
            text = f"{system['content']}\n\n{user['content']}"
            return self.encode([{**user, "content": text}, *rest])
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _harmless(self, text: str) -> str:
        for added in self.tokenizer.added_tokens_decoder.values():
            token = added.content
            # Not every added token is special: some vocabularies add runs of spaces, or <think>.
            if added.special and token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")  # "<|im_end|>": "< |im_end|>"
        return text

    def decode(self, ids: list[int]) -> str:
        """The text of a response, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def lesson(self, messages: list[Message], response: str) -> Step:
        """A chat with a response to imitate, its end included."""
        ids = self.tokenizer.encode(response, add_special_tokens=False)
        return Step(self.encode(messages), [*ids, self.tokenizer.eos_token_id], True)

    # ---- Sampling -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 64,
               temperature: float = 1.0, generator: torch.Generator | None = None,
               stop: tuple[str, ...] = ()) -> list[list[Step]]:
        """`group_size` responses to each prompt; `temperature` 0 takes the likeliest token.

        A response ends with an end id, or with the token that completes one of the texts `stop`.
        Returns one list of steps a prompt, in the order of the prompts. The same generator state
        gives the same responses to the same call.
        """
        if not all(prompts) or max_new_tokens < 1:
            raise PolicyError("cannot sample: a prompt is empty or max_new_tokens is below 1")
        how = group_size, max_new_tokens, temperature, generator, stop
        if not self.packs:
            with self._as_set():
                return self._generate(prompts, *how)
        groups: list[list[Step]] = [[] for _ in prompts]
        trees = shared_trees(prompts)
        sizes = {tree[0]: len(prompt_row([prompts[i] for i in tree]).input_ids) for tree in trees}
        trees.sort(key=lambda tree: sizes[tree[0]])
        while trees:
            # As many trees as the budget holds with room to write, the smallest first. The budget
            # is twice that of scoring: a cache needs less memory than gradients do.
            n, width = 1, len(trees[0])
            while n < len(trees):
                width = max(width, len(trees[n]))
                size = sizes[trees[n][0]] + width * group_size * max_new_tokens
                if (n + 1) * size > self.micro_batch_tokens * 2:
                    break
                n += 1
            batch, trees = trees[:n], trees[n:]
            with self._as_set():
                answers = self._sample_trees([[prompts[i] for i in t] for t in batch], *how)
            for tree, tree_answers in zip(batch, answers):
                for i, group in zip(tree, tree_answers):
                    groups[i] = group
        return groups

    def _sample_trees(self, trees: Sequence[Sequence[list[int]]], group_size: int,
                      max_new_tokens: int, temperature: float, generator: torch.Generator | None,
                      stop: tuple[str, ...] = ()) -> list[list[list[Step]]]:
        """One batch of R trees grown token by token; each holds one or more prompts.

        A tree of prompts is laid out as for scoring. B branches grow from it, `group_size` from
        the end of each prompt; a tree of fewer prompts has branches that are done from the start.
        """
        device, dtype, low = self.device, self.dtype, torch.finfo(self.dtype).min
        rows = [prompt_row(tree) for tree in trees]
        ids = pad_right([row.input_ids for row in rows], 0, device)  # (R, L)
        ends = pad_right([row.ends for row in rows], ids.shape[1], device)  # (R, L)
        positions = pad_right([row.position_ids for row in rows], 0, device)

        def per_branch(values: list[list[int]], padding: int) -> Tensor:
            """(R, B) from one value a prompt."""
            return pad_right([[v for v in vs for _ in range(group_size)] for vs in values],
                             padding, device)

        roots = per_branch([row.score_at for row in rows], -1)  # where the branch's prompt ends
        lengths = per_branch([[len(prompt) for prompt in tree] for tree in trees], 0)
        done = roots < 0  # (R, B)
        # Without a fork causal order is all the mask there is, and the faster one.
        forked = any(len(tree) > 1 for tree in trees)
        cache = Cache(layer_class_to_replicate=RoomyLayer)
        hidden = self.model.base_model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True,
            attention_mask=tree_mask(ends, dtype) if forked else None).last_hidden_state
        going = torch.arange(len(trees), device=device)  # the trees that still grow
        logits = self.model.get_output_embeddings()(hidden[going[:, None], roots])  # (R, B, V)
        if not logits.isfinite().all():
            raise PolicyError("the model's logits are not finite, so nothing can be sampled: its "
                              "weights were spoilt, mostly by too high an --lr")

        # Additive masks again: a branch sees the path to its root, and of the blocks of B columns
        # by which the cache grows, its own column of each.
        places, root = torch.arange(ids.shape[1], device=device), roots[:, :, None]
        own = (places <= root) & (root < ends[:, None])  # (R, B, L)
        see_prompt = torch.zeros(own.shape, dtype=dtype, device=device)
        see_prompt = see_prompt.masked_fill_(~own, low)[:, None]  # (R, 1, B, L)
        width = roots.shape[1]
        see_branch = torch.full((width, width), low, dtype=dtype, device=device).fill_diagonal_(0)
        end = torch.tensor(sorted(self.end_ids), device=device)
        closing = torch.tensor(sorted(self._closing(stop)), device=device)
        tokens, scores = [], []  # a step each: (R, B)
        for step in range(max_new_tokens):
            log_probs = (logits.float() / (temperature or 1.0)).log_softmax(-1)  # (R', B, V)
            if temperature == 0:
                chosen = log_probs.argmax(-1)  # (R', B)
            else:
                # One draw a branch, looked up in the running sum of the probabilities: a tenth of
                # the time of torch.multinomial, which draws a number for every word there is.
                sums = log_probs.exp().cumsum(-1, dtype=torch.float64)  # (R', B, V)
                draws = torch.rand(*sums.shape[:2], 1, dtype=torch.float64, device=device,
                                   generator=generator) * sums[..., -1:]
                chosen = torch.searchsorted(sums, draws, right=True)[..., 0]  # (R', B)
            picked = log_probs.gather(-1, chosen[..., None])[..., 0]
            # Trees that left the batch keep a row here; it is cut at its end id, as `_step` does.
            tokens.append(ids.new_zeros(done.shape).index_copy_(0, going, chosen))
            scores.append(picked.new_zeros(done.shape).index_copy_(0, going, picked))
            done[going] = done[going] | torch.isin(chosen, end)
            if stop:
                for r, b in (torch.isin(chosen, closing) & ~done[going]).nonzero().tolist():
                    row = going[r]
                    last = torch.stack([t[row, b] for t in tokens[-STOP_TOKENS:]]).tolist()
                    done[row, b] = self._ended(last, stop)
            unfinished = ~done[going].all(-1)
            if step + 1 == max_new_tokens or not unfinished.any():
                break
            if unfinished.float().mean() <= 0.5:  # moving the cache costs: leave by halves
                cache.batch_select_indices(unfinished.nonzero()[:, 0])
                going, chosen = going[unfinished], chosen[unfinished]
                see_prompt = see_prompt[unfinished]
            mask = torch.cat([see_prompt, see_branch.repeat(1, step + 1).expand(
                len(going), 1, -1, -1)], -1)
            hidden = self.model.base_model(
                input_ids=chosen, position_ids=lengths[going] + step, attention_mask=mask,
                past_key_values=cache, use_cache=True).last_hidden_state  # (R', B, D)
            logits = self.model.get_output_embeddings()(hidden)  # (R', B, V)
        written, scores = torch.stack(tokens, -1).tolist(), torch.stack(scores, -1).tolist()
        return [[[self._step(prompt, written[r][b], stop, scores[r][b])
                  for b in range(p * group_size, (p + 1) * group_size)]
                 for p, prompt in enumerate(tree)] for r, tree in enumerate(trees)]

    def _step(self, prompt: list[int], ids: list[int], stop: tuple[str, ...],
              log_probs: Sequence[float] = ()) -> Step:
        """What was written, up to where it ended: behind that a branch only waits for others."""
        ending = self.end_ids | self._closing(stop)
        for length in range(1, len(ids) + 1):
            if ids[length - 1] in ending and self._ended(ids[:length][-STOP_TOKENS:], stop):
                return Step(prompt, ids[:length], True, list(log_probs[:length]))
        return Step(prompt, ids, False, list(log_probs))

    def _closing(self, stop: tuple[str, ...]) -> set[int]:
        """The ids that may complete a stop text: those with the last letter of one."""
        if stop not in self._closings:
            last = {text[-1] for text in stop}
            self._closings[stop] = {i for i in range(len(self.tokenizer) if stop else 0)
                                    if last & set(self.tokenizer.decode([i]))}
        return self._closings[stop]

    def _ended(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        """Whether a response whose last tokens are these has ended with the last of them."""
        return ids[-1] in self.end_ids or any(text in self.decode(ids) for text in stop)

    def _generate(self, prompts: list[list[int]], group_size: int, max_new_tokens: int,
                  temperature: float, generator: torch.Generator | None,
                  stop: tuple[str, ...]) -> list[list[Step]]:
        """Sampling for a model that cannot be packed: the library's loop, one prompt at a time."""
        ways = {"stop_strings": list(stop), "tokenizer": self.tokenizer} if stop else {}
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0,
               "num_return_sequences": group_size} if temperature else {}
        if generator is not None:  # the library draws from the global one: start that from ours
            seed = torch.randint(2**31, (1,), generator=generator, device=generator.device)
            torch.manual_seed(seed.item())
        # The model's own settings would fill in what is not said here: Qwen2.5's repetition penalty
        # makes what is sampled another distribution than what is scored.
        own, self.model.generation_config = self.model.generation_config, GenerationConfig()
        groups = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=self.device)
            rows = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
                eos_token_id=sorted(self.end_ids), pad_token_id=min(self.end_ids), **how, **ways)
            steps = [self._step(prompt, row, stop) for row in rows[:, len(prompt):].tolist()]
            steps *= 1 if temperature else group_size  # greedy responses are all the same
            scores = self.token_log_probs([steps], temperature or 1.0)
            parts = scores.split([len(step.response_ids) for step in steps])
            groups.append([replace(s, log_probs=p.tolist()) for s, p in zip(steps, parts)])
        self.model.generation_config = own
        return groups

    # ---- Scoring ------------------------------------------------------------------------------

    def rows(self, groups: Sequence[Sequence[Step]]) -> list[Row]:
        """The groups as packed trees, or one row a step for a model that cannot be packed."""
        if self.packs:
            trees: list[list[Step]] = []
            for group in groups:  # neighbours only: the numbering of the tokens must not change
                if trees and alike(trees[-1][0].prompt_ids, group[0].prompt_ids):
                    trees[-1].extend(group)
                else:
                    trees.append(list(group))
        else:
            trees = [[step] for group in groups for step in group]
        budget = min(self.row_budget, self.micro_batch_tokens)
        return pack(trees, budget, self.model.config.get_text_config().hidden_size)

    def micro_batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows cut into micro-batches of at most `micro_batch_tokens`, as many on every device."""
        return in_step(micro_batches(rows, self.micro_batch_tokens))

    def read(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The last hidden states of a micro-batch where a token is predicted, with gradients.

        Returns `hidden` (M, D) of the M places, and for each of the N scored tokens, in the order
        of the rows' `token_index`, which place is its own (N,): samples that agree so far share.
        """
        ids, places, token_at = self._layout(rows)
        if self.packs:
            positions = pad_right([row.position_ids for row in rows], 0, self.device)
            ends = pad_right([row.ends for row in rows], ids.shape[1], self.device)
            with self._as_set():
                hidden = self.model.base_model(
                    input_ids=ids, position_ids=positions, use_cache=False,
                    attention_mask=tree_mask(ends, self.dtype)).last_hidden_state  # (B, T, D)
        else:
            with self._as_set():
                hidden = self.model(
                    input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1]
        return hidden.flatten(0, 1)[places], token_at

    def _layout(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """Padded ids (B, T), the places in B * T that predict a token (M,), each token's (N,)."""
        ids = pad_right([row.input_ids for row in rows], 0, self.device)
        score_at = [b * ids.shape[1] + i for b, row in enumerate(rows) for i in row.score_at]
        places, token_at = torch.tensor(
            score_at, dtype=torch.long, device=self.device).unique(return_inverse=True)
        return ids, places, token_at

    # Problem 3
    def score(self, rows: Sequence[Row], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probs of a micro-batch's scored tokens, with gradients, and entropies without.

        Both are (N,), in the order of the rows' `token_index`.
        """
        targets = torch.tensor([t for row in rows for t in row.targets], dtype=torch.long,
                               device=self.device)  # (N,)
        with self._as_set():
            if self.packs:  # the head only where a token is scored
                hidden, token_at = self.read(rows)
                return head_log_probs(self.model.get_output_embeddings(), hidden, token_at, targets,
                                      temperature, self.head_chunk)
            # Some of these scale their logits behind the head.
            ids, places, token_at = self._layout(rows)
            logits = self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[places]
        return picked_log_probs(logits, token_at, targets, temperature)

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
        draw = torch.Generator(self.device).manual_seed(0)
        words = torch.randint(config.get_text_config().vocab_size, (20,), generator=draw,
                              device=self.device).tolist()
        group = [Step(words[:6], words[6:13], False), Step(words[:6], words[13:], False)]

        def differ(some: Tensor, others: Tensor) -> bool:
            # Two roundings of one number: a wrong mask costs whole nats in a trained model. In half
            # precision a single unlikely token may be off by half a nat, the mean may not.
            errors = (some - others).abs()
            return (errors.max() > 1e-3 if self.dtype == torch.float32
                    else errors.mean() > 0.5).item()

        plain = self.token_log_probs([group])
        if not plain.isfinite().all():
            raise PolicyError("the model's log-probs are not finite: its weights are spoilt; take "
                              "an earlier checkpoint")
        shorter = self.token_log_probs([[Step(words[:6], words[6:10], False)]])
        if differ(shorter, plain[:4]):
            raise PolicyError("an encoder: its tokens see later ones; use a causal language model")
        # Twenty words would not show a window of thousands, so the configuration is asked first.
        window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
        kinds = getattr(config, "layer_types", None) or ["window" if window else "full_attention"]
        if set(kinds) != {"full_attention"}:
            return False
        try:
            with self._as_set():
                trees = self._sample_trees([[words[:6]], [words[:3], words[:4]]], 2, 4, 1.0, draw)
            sampled = [group for tree in trees for group in tree]
            self.packs = True
            packed = self.token_log_probs([group])
        except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):
            return False  # a mask of its own, another cache, no such argument
        finally:
            self.packs = False
        claimed = torch.tensor([p for g in sampled for s in g for p in s.log_probs]).to(plain)
        return not (differ(packed, plain) or differ(claimed, self.token_log_probs(sampled)))

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write an ordinary Hugging Face folder: weights (or those given), settings, tokenizer.

        Adapters are added to the weights, in float32, and also kept alone in `folder`/adapter.
        """
        if low_rank_layers(self.model):
            save_merged(self.model, folder, weights)
            save_adapters(self.model, Path(folder) / "adapter")
        else:
            self.model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)


def end_ids(model: torch.nn.Module, tokenizer) -> set[int]:
    """Every id that ends a response: all of the generation config's, and the tokenizer's own."""
    found: set[int] = set()
    for ids in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found |= set(ids if isinstance(ids, list) else [ids]) - {None}
    if not found:
        raise PolicyError("the model names no end-of-sequence id, so no response could ever end: "
                          "set eos_token_id in its generation_config.json")
    return found


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer exactly as its tokenizer.json says.

    Not by AutoTokenizer: for Qwen2 models transformers 5 keeps a file's vocabulary but replaces its
    way of cutting text by Qwen's own, and the embedded model would silently read other tokens.
    """
    return PreTrainedTokenizerFast.from_pretrained(name)


@contextmanager
def _as_policy_error(name: str | Path) -> Iterator[None]:
    """Make a PolicyError of whatever a missing or broken folder makes the libraries raise."""
    try:
        yield
    except Exception as error:
        reason, base = " ".join(str(error).split())[:200], str(name)
        with suppress(ValueError):
            base = base_name(name)
        raise PolicyError(
            f"cannot load a causal language model from {name!s}"
            f"{'' if base == str(name) else f', adapters of {base}'}: {reason} "
            "(give a Hugging Face folder, or a hub name with a network)") from error


def check_model(name: str | Path) -> None:
    """Raise PolicyError if there is no such model; reads no more than its config.json."""
    with _as_policy_error(name):
        AutoConfig.from_pretrained(base_name(name))


def usual_precision(device: str | None = None) -> str:
    """bfloat16 on a GPU that has it, else float32."""
    half = (device != "cpu" and torch.cuda.is_available()
            and torch.cuda.is_bf16_supported(including_emulation=False))
    return "bfloat16" if half else "float32"


def load_policy(name: str | Path, device: str | None = None, lora: int = 0,
                precision: str | None = None, checkpointing: bool = False,
                micro_batch_tokens: int = 16384) -> Policy:
    """The policy in a folder or on the Hugging Face hub, on the GPU where there is one.

    `lora` is the rank of adapters to learn; 0 is none, all weights learn. `precision` is that of
    the arithmetic, bfloat16 (default on a GPU that has it) or float32. Weights that learn are
    float32 whatever they were saved in: steps of 1e-6 vanish in half precision. Frozen ones, beside
    adapters, have the precision of the arithmetic. `checkpointing`: see `checkpoint_layers`.

    A folder of PEFT adapters is read as the model that they name with them added to its weights.
    Raises PolicyError with one line when there is no such model.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    half = (precision or usual_precision(device)) == "bfloat16"
    with _as_policy_error(name):
        if lora and saved_config(name):
            raise ValueError("new adapters on top of these would belong to no folder's weights; "
                             "give the folder of merged weights, or take --lora 0")
        model = load_model(name, torch.bfloat16 if half and lora else torch.float32).to(device)
        tokenizer = load_tokenizer(base_name(name))
        n_rows = model.get_input_embeddings().num_embeddings
        if tokenizer.vocab_size > n_rows:
            raise ValueError(f"its tokenizer has {tokenizer.vocab_size} tokens, the model {n_rows}")
        if lora:
            add_adapters(model, lora)
    checkpoint_layers(model, checkpointing)
    return Policy(model, tokenizer, micro_batch_tokens=micro_batch_tokens,
                  autocast=half and not lora)
