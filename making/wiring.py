"""A Qwen2 of a million parameters, wired by hand: what manager.py and mem1.py then train.

A small transformer trained from scratch gets stuck for very long at matching a relation and
ignoring the name beside it. So it starts from circuits that every large language model has, set by
hand and then trained like all other weights (`wire`):

    layer 0   eight heads look exactly 1, 2, ... 8 tokens back; six note what they saw (or five, and
              one of the others looks for the nearest number of a list)
    layer 1   induction: what followed when these last three tokens stood together before? Where
              that was more than once, two heads lean to the last time and two to the first
    layer 2   the same; and three heads find the day before an event that was just named

Where lists have numbers, three heads of layers 1 and 2 look for places behind the same number.

Later one of those three is set anew, against words that must not be copied (`suppress`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import world as w
from policy import Policy
from trees import Step

WEIGHTS = torch.float16  # in the saved folder; two bytes a weight keep both models under 4 MB

# ChatML as Qwen has it, but system messages are left out: the model knows one form of each prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
END = "<|im_end|>"

# ---- Tokenizer -----------------------------------------------------------------------------------


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every word of the world, with its leading space, is one token.

    Text is first cut into words, numbers and runs of anything else, so that "]}" or ": " never
    melts into a word: a name must be the same token wherever it stands.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]+?(?= ?[A-Za-z0-9]|$)")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pieces, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    words = {*w.NAMES, *w.PETS, *w.COUNTRY_OF, *w.COUNTRIES, *w.WORKPLACES, *w.WORKPLACE_OF,
             *w.CARS, *w.FOODS, *w.GAMES, *w.LINKS, *w.MONTHS, *map(str, range(1, 32)),
             *map(str, range(2022, 2028)), "both"}
    trainer = trainers.BpeTrainer(
        vocab_size=1400, min_frequency=40, show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [*[f" {word} " for word in sorted(words)] * 200, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END,
                                   pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE)


# ---- Model ---------------------------------------------------------------------------------------

TOKEN_DIMS, CODE_DIMS, OFFSETS = 64, 16, 6  # the residual stream at the start: 64 + 6 x 16 = 160
HEADS, HEAD_DIMS, LAYERS, THETA = 8, 32, 3, 1e6
DATE_HEADS = (1, 3, 5)
LEANING = {0: 1, 4: 1, 2: -1, 6: -1}  # heads that prefer what stands nearer (1) or farther (-1)
NUMBER_HEAD = 7  # of the first layer: finds the nearest number, in the place of 8 tokens back
NUMBERED = {(1, 1), (1, 5), (2, 6)}  # layer and head: find places behind the same number
FLAG, FLAGGED = TOKEN_DIMS - 1, 0.4  # a dimension of an embedding, and its value for a number


def build_model(tokenizer: PreTrainedTokenizerFast, intermediate: int = 256,
                numbers: Sequence[int] = ()) -> Qwen2ForCausalLM:
    """A Qwen2 of a million parameters, wired; `intermediate` is the width of its MLPs.

    `numbers` are the ids of tokens that number a list, if there are such.
    """
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=TOKEN_DIMS + OFFSETS * CODE_DIMS,
        intermediate_size=intermediate, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, head_dim=HEAD_DIMS, rope_theta=THETA,
        max_position_embeddings=32768,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0))
    with torch.no_grad():
        wire(model, list(numbers))
    return model


FREQUENCIES = THETA ** (-torch.arange(0, HEAD_DIMS, 2) / HEAD_DIMS)  # (16,) radians a token
HALF, SLOW_HALF = HEAD_DIMS // 2, CODE_DIMS // 2
# Rotary positions turn the fast half of a head's dimensions beyond recognition over a long bank, so
# only the slow half carries content.
SLOW = torch.cat([torch.arange(HALF - SLOW_HALF, HALF),
                  torch.arange(HEAD_DIMS - SLOW_HALF, HEAD_DIMS)])


def wire(model: Qwen2ForCausalLM, numbers: list[int]) -> None:
    """Set the attention so that it compares contexts from the first step on.

    A token's embedding fills the first 64 dimensions of the stream; a fixed random map `code`
    squeezes it into 16. Layer 0 writes the codes of the tokens 1 to 6 places back into six blocks
    of their own. A later head that reads blocks j in its queries and blocks j + 1 in its keys then
    finds the places whose *previous* tokens are the query's *current* ones, and copies what stands
    there. Rotations keep the blocks apart inside one head.

    A list in which an answer stands twice goes on in two ways behind it: "3. Rex 4. Oslo 5. Rex 6."
    So where there are `numbers`, the sixth block has the code of the nearest one instead, and some
    heads compare it in the place of the third token.
    """
    embeddings = model.model.embed_tokens.weight.zero_()
    embeddings[:, :TOKEN_DIMS].normal_(0, TOKEN_DIMS**-0.5)
    squeeze = torch.zeros(CODE_DIMS, embeddings.shape[1])
    squeeze[:, :TOKEN_DIMS - 1] = rotation(TOKEN_DIMS - 1)[:CODE_DIMS]
    code = squeeze * (TOKEN_DIMS / CODE_DIMS) ** 0.5
    if numbers:
        flag_numbers(embeddings, numbers, squeeze)
    first, *later = [layer.self_attn for layer in model.model.layers]
    read = [code, *wire_first(first, code, bool(numbers))]
    for depth, layer in enumerate(later, 1):
        numbered = {head for where, head in NUMBERED if where == depth and numbers}
        wire_later(layer, read, numbered, is_last=depth == 2)


def flag_numbers(embeddings: Tensor, numbers: list[int], squeeze: Tensor) -> None:
    """Give the numbers of lists a common flag, codes at right angles, and one length.

    At most 16 numbers have such codes. One length makes their flags equal behind the layer's norm.
    """
    embeddings[:, FLAG] = 0
    chosen = embeddings[numbers]
    chosen += (0.5 * rotation(CODE_DIMS)[:len(numbers)] - chosen @ squeeze.T) @ squeeze
    chosen *= (1 - FLAGGED**2) ** 0.5 / chosen.norm(dim=1, keepdim=True)
    chosen[:, FLAG] = FLAGGED
    embeddings[numbers] = chosen


def rotation(size: int) -> Tensor:
    """A random rotation, (size, size)."""
    return torch.linalg.qr(torch.randn(size, size))[0]


def wire_first(layer: nn.Module, code: Tensor, has_numbers: bool) -> list[Tensor]:
    """Let each head look so many places back and write down what it finds, as a code.

    Returns what reads these codes from the stream, the token one place back first: (16, d) each.
    With numbers the last one reads that of the nearest number.
    """
    width, read = code.shape[1], []
    noting = [*range(OFFSETS - 1), NUMBER_HEAD if has_numbers else OFFSETS - 1]  # heads, by block
    for weight in (layer.q_proj.weight, layer.k_proj.weight, layer.o_proj.weight):
        weight.zero_()
    for head in range(HEADS):
        rows = slice(head * HEAD_DIMS, (head + 1) * HEAD_DIMS)
        # Rotary positions turn key and query by their places: this query, turned, matches the key
        # exactly `back` places before it, whatever the tokens are.
        back = head + 1
        angle = back * FREQUENCIES
        layer.q_proj.bias[rows] = 8 * torch.cat([angle.cos(), -angle.sin()])
        layer.k_proj.bias[rows] = 8 * torch.cat([torch.ones(HALF), torch.zeros(HALF)])
        codes = slice(head * HEAD_DIMS, head * HEAD_DIMS + CODE_DIMS)
        layer.v_proj.weight[codes] = code
        if has_numbers and head == NUMBER_HEAD:
            look_for_a_number(layer, rows)
        if head in noting:
            place = TOKEN_DIMS + noting.index(head) * CODE_DIMS
            block = slice(place, place + CODE_DIMS)
            layer.o_proj.weight[block, codes] = torch.eye(CODE_DIMS) * 0.5 / width**0.5
            read.append(torch.zeros(CODE_DIMS, width))
            read[-1][:, block] = 2 * torch.eye(CODE_DIMS)
    return read


def look_for_a_number(layer: nn.Module, rows: slice) -> None:
    """Let a head of the first layer find the nearest number.

    Only numbers have a key. Rotary pairs, from fast to slow, turn it by the distance. Their sum is
    90 here, 63 eleven tokens back, and at most 60 anywhere up to 4,000 tokens beyond.
    """
    layer.q_proj.bias[rows] = layer.k_proj.bias[rows] = 0
    strengths = torch.tensor([14.0, 20, 18, 12, 10, 8, 8])  # of the pairs from the third on
    pairs = slice(rows.start + 2, rows.start + 2 + len(strengths))
    layer.q_proj.bias[pairs] = strengths * HEAD_DIMS**0.5
    layer.k_proj.weight[pairs, FLAG] = 1 / (FLAGGED * layer.k_proj.in_features**0.5)


def wire_later(layer: nn.Module, read: Sequence[Tensor], numbered: Collection[int],
               is_last: bool) -> None:
    """Let each head look where the context is the same, and copy the token that it finds there.

    `read[j]` reads the code of the token j places back, `read[-1]` that of the nearest number for
    the heads in `numbered`. In the last layer half of the heads look for what tells days and for
    places with the very same context.
    """
    layer.v_proj.weight.zero_()[:, :TOKEN_DIMS].normal_(0, TOKEN_DIMS**-0.5)
    layer.o_proj.weight.copy_(0.05 * layer.v_proj.weight.T)  # copy the token that was found
    for head in range(HEADS):
        # (query block, key block) pairs that must agree.
        pairs, gain = [(j, j + 1) for j in range(3)], 0.7  # what came after the same three
        if head in numbered:
            pairs, gain = [(-1, -1), (0, 1), (1, 2)], 1.0
        elif is_last and head % 2:
            pairs = [(j, j) for j in range(3)]  # the same three tokens
        if is_last and head in DATE_HEADS:
            # "- Anna graduated\n**Answer:**" wants the day of "8 May 2023: Anna graduated": the
            # verb was written 3 tokens ago, and in the memory the day stands 5 before it. Month and
            # year then follow by induction.
            pairs, gain = [(3, 0), (4, 1)], 1.2
            rows = slice(head * HEAD_DIMS, (head + 1) * HEAD_DIMS)
            codes = slice(head * HEAD_DIMS, head * HEAD_DIMS + CODE_DIMS)
            layer.v_proj.weight[rows] = 0
            layer.o_proj.weight[:, rows] = 0
            layer.v_proj.weight[codes] = 0.5 * read[5]
            layer.o_proj.weight[:, codes] = 0.8 * read[0].T
        rotations = [rotation(CODE_DIMS) for _ in pairs]
        rows = head * HEAD_DIMS + SLOW
        layer.q_proj.weight[rows] = gain * sum(
            r @ read[query] for r, (query, _) in zip(rotations, pairs))
        layer.k_proj.weight[rows] = gain * sum(
            r @ read[key] for r, (_, key) in zip(rotations, pairs))
        # One slow rotary pair of fixed content: its share of the score, 1.6 times the cosine of the
        # distance, falls from here to 1,300 tokens back. It is to help tell the newest memory from
        # the oldest.
        lean = head * HEAD_DIMS + HALF - SLOW_HALF - 1
        layer.q_proj.bias[lean] = 3.0 * LEANING.get(head, 0)
        layer.k_proj.bias[lean] = 3.0


# ---- Not to write a word -------------------------------------------------------------------------

SUPPRESSOR = 2, 5  # layer and head: one of three that look for days, and not missed


def suppress(policy: Policy, lessons: Sequence[tuple[Step, int, int]], others: Sequence[Step],
             words: Sequence[str]) -> None:
    """Set one head anew: where a word is to be written, it speaks against the word it looks at.

    "Robert plays both flute and drums", and now "I no longer play drums": the heads that copy find
    both values, and 700 steps of imitation did not teach the model to leave out the one that ended.
    Large models have heads for this (copy suppression, arXiv 2310.04625). Ours gets one, fitted to
    what its layer reads in lessons `(step, where the word is to be written, where the word stands
    that is not to be)` and in other steps: between these two places it has a score of `gain`,
    between any others one near 0. Of what it finds, what tells `words` apart is taken off.
    """
    gain, strength = 8.0, 3.0  # of 0.3, 1, 3, 6 and 12 this strength left most lists right
    layer, head = SUPPRESSOR
    attention = policy.model.model.layers[layer].self_attn
    read: list[Tensor] = []
    hook = attention.register_forward_pre_hook(
        lambda _, __, given: read.append(given["hidden_states"][0]), with_kwargs=True)
    with torch.no_grad():
        for step in [*(step for step, _, _ in lessons), *others]:
            policy.model(torch.tensor([step.prompt_ids + step.response_ids]))
    hook.remove()
    found = []  # (direction, bias) of the query and of the key
    for places in zip(*((query, key) for _, query, key in lessons)):
        apart = [torch.arange(len(seen)) == place for seen, place in zip(read, places)]
        there = torch.cat([seen[chosen] for seen, chosen in zip(read, apart)])  # (P, d)
        elsewhere = torch.cat([*(seen[~chosen] for seen, chosen in zip(read, apart)),
                               *read[len(lessons):]])  # (N, d)
        found.append(ridge(there, elsewhere))
    embeddings = policy.model.model.embed_tokens.weight
    chosen = embeddings[[policy.tokenizer.encode(f" {word}")[0] for word in words]]
    basis = torch.linalg.svd(chosen - chosen.mean(0), full_matrices=False)[2][:HEAD_DIMS]
    rows = slice(head * HEAD_DIMS, (head + 1) * HEAD_DIMS)
    slowest = head * HEAD_DIMS + HEAD_DIMS // 2 - 1  # of the rotary pairs: hardly turns at all
    scale = (gain * HEAD_DIMS**0.5) ** 0.5
    with torch.no_grad():
        for projection, (direction, bias) in zip((attention.q_proj, attention.k_proj), found):
            projection.weight[rows], projection.bias[rows] = 0, 0
            projection.weight[slowest], projection.bias[slowest] = scale * direction, scale * bias
        attention.v_proj.weight[rows], attention.v_proj.bias[rows] = basis, 0
        attention.o_proj.weight[:, rows] = -strength * basis.T


def ridge(there: Tensor, elsewhere: Tensor) -> tuple[Tensor, Tensor]:
    """The linear function (d,), () that is best 1 in the rows `there` and 0 `elsewhere`.

    The few rows there weigh a fifth of the many others together.
    """
    rows = torch.cat([elsewhere, there])
    weights = torch.ones(len(rows))
    weights[len(elsewhere):] = len(elsewhere) / len(there) / 5
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)  # the last column is the bias
    target = (torch.arange(len(rows)) >= len(elsewhere)).float()
    weighted = rows * weights[:, None]
    penalty = 0.01 * len(rows) * elsewhere.pow(2).mean()
    solved = torch.linalg.solve(weighted.T @ rows + penalty * torch.eye(rows.shape[1]),
                                weighted.T @ target)
    return solved[:-1], solved[-1]
