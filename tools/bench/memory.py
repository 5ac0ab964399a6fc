"""How much memory a GRPO step takes: computed before anything is loaded, and measured.

What is held, in bytes a number: 4 in float32, 2 in bfloat16
    weights       all of them; without adapters also those of the reference, a second copy.
                  Frozen beside adapters they take 2 in bfloat16; what learns takes 4
    gradients     4 a weight that learns;  optimizer  8 (Adam's two moments)
    activations   what autograd keeps of one micro-batch. Not a formula but a count: two models of
                  the same widths, with one layer and with two, are run on tensors without contents,
                  and what they keep is summed up; their difference is what every layer keeps. With
                  layers computed again: what goes into each, and one layer's own. A row has
                  L + B (N - 1) tokens, for B responses of N tokens to a prompt of L. Added is
                  what is made inside the layer whose gradients are being computed
    logits        three times places x vocabulary in float32: log-probs, and their gradients
                  before and behind the softmax; of `head_chunk` places at most
    cache         keys and values, 2 x layers x key heads x head width, of L + G (N - 1) tokens a
                  prompt; beside it the logits of one new token a response

Not all at once: sampling holds weights, optimizer, gradients (of the step before), cache and its
logits; the update weights, optimizer, activations, and logits until the layers' own gradients are
due. Gradients of weights come while activations go, so with one micro-batch the larger of both
counts; later micro-batches find them there from the start.
"""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch._subclasses import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from backend import attention as tree_attention  # noqa: F401  (registers "tree")
from backend.lora import add_adapters, empty_model
from policy import HEAD_LOGITS
from tools.bench.step import OurStep, Setting
from tools.bench.turns import resident_bytes

ROW_BUDGET = 4096  # of `Policy`
CARDS = (8, 16, 24, 80)  # GB
MOST = 0.92  # of a card is ours: the rest is the driver's, and what lies between the tensors


def computed(config, setting: Setting) -> dict[str, float]:
    """Bytes by part, and at the peaks of "sampling" and "update", for a model's configuration.

    Raises ValueError for a model that is not built like Llama or Qwen2.
    """
    text, s = config.get_text_config(), setting
    absent = [name for name in ("intermediate_size", "num_key_value_heads", "num_hidden_layers")
              if not hasattr(text, name)]
    if absent:
        raise ValueError(f"config.json has no {absent[0]}: --memory counts models that are built "
                         "like Llama and Qwen2")
    model = empty_model(config)
    n_all = sum(p.numel() for p in model.parameters())
    size = 2 if s.half else 4  # bytes of an activation
    if s.lora:
        add_adapters(model, s.lora)
    n_learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = n_all * size + n_learned * 4 if s.lora else 2 * n_all * 4

    # The micro-batch with the most tokens: rows as `pack` makes them of responses that differ.
    budget, branch = min(ROW_BUDGET, s.micro_batch_tokens), max(s.new_tokens - 1, 1)
    per_row = min(s.group, max(1, (budget - s.prompt_tokens) // branch))
    row = s.prompt_tokens + per_row * (s.new_tokens - 1)
    n_rows = s.prompts * -(-s.group // per_row)
    together = min(n_rows, max(1, s.micro_batch_tokens // row))
    first, layer = saved_bytes(config, s, together, row)
    tokens, n_layers = together * row, text.num_hidden_layers
    activations, working = first + n_layers * layer, 3 * tokens * text.intermediate_size * size
    if s.checkpointing:  # what goes into each layer is kept; at the layer at hand all of it again
        activations, working = first + n_layers * tokens * text.hidden_size * size, working + layer
    places = min(together * (1 + per_row * (s.new_tokens - 1)), HEAD_LOGITS // text.vocab_size)
    logits = 3 * places * text.vocab_size * 4
    gradients = 4 * n_learned
    # The head's weights get theirs first. (A tied head's go to the embeddings of all tokens.)
    logits_and_head = logits + (0 if s.lora else 4 * text.vocab_size * text.hidden_size)
    update = activations + max(logits_and_head, working)
    update = update + gradients if n_rows > together else max(update, gradients)

    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * n_layers * text.num_key_value_heads * head_dim * size
    trees = min(s.prompts, max(1, 2 * s.micro_batch_tokens // (
        s.prompt_tokens + s.group * s.new_tokens)))
    cache = trees * (s.prompt_tokens + s.group * (s.new_tokens - 1)) * per_token
    new_logits = trees * s.group * text.vocab_size * (16 + size)  # with double running sums
    prefill = trees * s.prompt_tokens * (3 * text.intermediate_size + 4 * text.hidden_size) * size
    sampling = gradients + cache + max(new_logits + cache // n_layers, prefill - cache)
    held = weights + 2 * gradients
    return {"weights": weights, "gradients": gradients, "optimizer": 2 * gradients,
            "activations": activations + working, "logits": max(logits, new_logits), "cache": cache,
            "sampling": held + sampling, "update": held + update,
            "peak": held + max(sampling, update)}


def saved_bytes(config, setting: Setting, n_rows: int, n_tokens: int) -> tuple[int, int]:
    """Bytes that autograd keeps of a micro-batch: outside the layers, and of each layer."""
    totals = []
    for n_layers in (1, 2):
        small = copy.deepcopy(config)
        small.get_text_config().num_hidden_layers = n_layers
        if getattr(small.get_text_config(), "layer_types", None):
            small.get_text_config().layer_types = small.get_text_config().layer_types[:n_layers]
        storages: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage()._cdata] = tensor  # held, or its number is used again
            return tensor

        with FakeTensorMode():  # tensors with shapes and without contents
            frozen_half = setting.half and setting.lora > 0
            dtype = torch.bfloat16 if frozen_half else torch.float32
            model = AutoModelForCausalLM.from_config(small, dtype=dtype, attn_implementation="tree")
            model.eval()
            if setting.lora:
                add_adapters(model, setting.lora)
            weights = {p.untyped_storage()._cdata for p in model.parameters()}
            ids = torch.zeros(n_rows, n_tokens, dtype=torch.long)
            mask = torch.zeros(n_rows, 1, n_tokens, n_tokens,
                               dtype=torch.bfloat16 if setting.half else torch.float32)
            autocast = torch.autocast("cpu", torch.bfloat16, setting.half and not setting.lora)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
                model.base_model(input_ids=ids, position_ids=ids, attention_mask=mask,
                                 use_cache=False)
            totals.append(sum(tensor.untyped_storage().nbytes()
                              for key, tensor in storages.items() if key not in weights))
    layer = totals[1] - totals[0]
    return totals[0] - layer, layer


def measured(folder: str | Path, setting: Setting, steps: int = 2) -> int | None:
    """The bytes that steps took at their peak, in a process of their own; None if unknown here.

    On a GPU what torch gave out at most; else how far the resident memory grew beyond what it was
    after the libraries had been used once (Linux only).
    """
    # Let the C library give large blocks back at once, so that resident is what is in use.
    given = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure, str(folder), asdict(setting), steps,
                               torch.get_num_threads()).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _measure(folder: str, setting: dict, steps: int, threads: int) -> int | None:
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():  # kernels are made when first used: some tens of MB
        OurStep(folder, replace(Setting(**setting), prompts=1, prompt_tokens=64, new_tokens=8))()
        gc.collect()
    before = resident_bytes("VmRSS")
    step = OurStep(folder, Setting(**setting))
    for _ in range(steps):  # Adam's moments come at the end of the first
        step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    after = resident_bytes("VmHWM")
    return None if after is None else after - before


def memory_report(name: str, config, setting: Setting, n_bytes: int | None) -> str:
    """What was computed and measured, in GiB, and the cards it fits on."""
    parts = computed(config, setting)
    learns = f"LoRA {setting.lora}" if setting.lora else "all weights learn"
    lines = [
        f"{name}: {sum(p.numel() for p in empty_model(config).parameters()) / 1e9:.3g}B weights, "
        f"{learns}, {'bfloat16' if setting.half else 'float32'}, layers computed again: "
        f"{'on' if setting.checkpointing else 'off'}; {setting.prompts} x {setting.group}, "
        f"{setting.prompt_tokens} + {setting.new_tokens} tokens, micro-batches of "
        f"{setting.micro_batch_tokens}"]
    lines += [f"  {part:<32}{parts[part] / 2**30:>9.3f} GiB" for part in (
        "weights", "gradients", "optimizer", "activations", "logits", "cache")]
    lines += [f"  {'peak of ' + part + ', computed':<32}{parts[part] / 2**30:>9.3f} GiB"
              for part in ("sampling", "update")]
    if n_bytes is not None:
        lines.append(f"  {'peak, measured':<32}{n_bytes / 2**30:>9.3f} GiB, computed / measured "
                     f"{parts['peak'] / n_bytes:.2f}")
    fits = [f"{card} GB: {'yes' if parts['peak'] < MOST * card * 1e9 else 'no'}" for card in CARDS]
    lines.append("  fits a card of " + ", ".join(fits))
    return "\n".join(lines)


def read_config(folder: str | Path):
    """The configuration of a model folder or hub name. Raises OSError or ValueError."""
    return AutoConfig.from_pretrained(folder)
