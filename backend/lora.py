"""What it takes to train a real model on one card: low-rank adapters, and computing things again.

A Linear with weights W (out, in) is frozen and gets a learned correction of rank r beside it,

    y = W x + s B A x        A (r, in) random, B (out, r) zero at first, s = alpha / r

so that at the start nothing is changed (LoRA, arXiv 2106.09685, Eq. 3). Three things follow.

- Only A and B have gradients and Adam's moments, 16 bytes a weight: at rank 16 that is 1 percent
  of a 3B model, 0.45 GiB, and the frozen rest can stand in bfloat16.
- With `adapters(model, on=False)` the same weights are the start model again. The reference of the
  KL and the frozen answer agent of manager training cost no second model.
- The correction can be kept alone (`save_adapters`, PEFT's file format) or added to the weights
  (`save_merged`, an ordinary folder): y = (W + s B A) x.

What is left then is activations. `checkpoint_layers` keeps only what goes into each layer, where
all of them would not fit, and `head_log_probs` no logits at all. Both compute the rest a second
time in the backward pass.

Where this differs from usual practice, and why
1. Every Linear except the head has an adapter, not only queries and values as in the paper: the
   same number of weights does more when it is spread (arXiv 2305.14314, Fig. 2). No dropout.
2. alpha is 2 r, so s is 2 whatever the rank. (PEFT's default is alpha 8.)
3. A and B are kept in float32, or steps of 1e-6 would vanish; they are multiplied in the dtype of
   the activations. The correction is small, and rounding it costs less than rounding W x does.
4. Merged weights are written in float32: in bfloat16 much of a small correction is rounded away.
   (24 steps of GRPO moved SmolLM2 by 1e-4 a weight, of which bfloat16 keeps 0.41.) Who reads such
   a folder in bfloat16, or trains new adapters on it, gets its own beside the weights again
   (`take_out`). New adapters stand on top of them, and both are saved as one: the rank in the file
   grows with each run that went on from the last, and the model that they belong to stays.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from backend.heads import trunk

# Keys of adapter_config.json whose value changes neither the base model nor y = (W + s B A) x once
# A and B are learned. Every other key must be off, or have one of the harmless values.
FREE_KEYS = {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules",
             "layers_to_transform", "layers_pattern", "base_model_name_or_path", "task_type",
             "inference_mode", "auto_mapping", "peft_version", "megatron_core", "loftq_config",
             "eva_config", "runtime_config", "qalora_group_size"}
# These ways to start A and B leave W alone. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ take something
# off W first, which the file of A and B does not hold (findings/peft_disable_adapter.sh).
HARMLESS_VALUES = {"peft_type": ("LORA",), "bias": ("none",), "revision": (None, "main"),
                   "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal")}
SCALE = 2  # s of new adapters, whatever their rank
ADAPTER = "adapter"  # the folder inside a checkpoint
PEFT_PREFIX = "base_model.model."  # what PEFT puts before the name of every layer
# It runs the forward pass again in backward. There is no dropout whose draws would have to agree.
again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


# ---- Adapters ------------------------------------------------------------------------------------


class AdapterError(ValueError):
    """Adapters that a model cannot have; the message says what to do."""


class LowRank(nn.Module):
    """A frozen Linear and its learned correction of rank `rank`.

    The base may be one of these itself: then what an earlier run learned is frozen and always on.
    """

    def __init__(self, base: nn.Linear | LowRank, rank: int, alpha: float):
        super().__init__()
        kind = {"dtype": torch.float32, "device": next(base.parameters()).device}
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base, self.scale, self.on = base, alpha / rank, True
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, **kind))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)  # as a Linear starts, and as PEFT does

    @property
    def linear(self) -> nn.Linear:
        """The Linear below all adapters."""
        return self.base.linear if isinstance(self.base, LowRank) else self.base

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if not self.on:
            return self.base(x)
        y, (A, B) = self.linear(x), self.factors()
        inner = F.linear(x, A.to(x.dtype)).flatten(0, -2)  # (N, r)
        # In one kernel: the correction alone would be as large as y, and be read and written twice.
        return torch.addmm(y.flatten(0, -2), inner, B.to(x.dtype).T).view_as(y)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, in) and s B (out, r) of all that the adapter adds, earlier runs' included."""
        A, B = self.lora_A, self.scale * self.lora_B
        if isinstance(self.base, LowRank):
            below_A, below_B = self.base.factors()
            A, B = torch.cat([below_A, A]), torch.cat([below_B, B], 1)
        return A, B

    def correction(self) -> Tensor:
        """s B A, what the adapter adds to the weights; (out, in), float32."""
        A, B = self.factors()
        return (B @ A).detach()


def linear_layers(model: nn.Module) -> dict[str, nn.Linear | LowRank]:
    """The layers that get an adapter, by name: every Linear except the head.

    One that has an adapter already is in its place.
    """
    head, inside = model.get_output_embeddings(), ids_inside(model)
    return {name: layer for name, layer in model.named_modules()
            if isinstance(layer, (nn.Linear, LowRank)) and layer is not head
            and id(layer) not in inside}


def low_rank_layers(model: nn.Module) -> dict[str, LowRank]:
    """The layers that have an adapter, by name; of two on top of each other the upper one."""
    inside = ids_inside(model)
    return {name: layer for name, layer in model.named_modules()
            if isinstance(layer, LowRank) and id(layer) not in inside}


def ids_inside(model: nn.Module) -> set[int]:
    """The ids of the modules that an adapter stands beside."""
    return {id(layer.base) for layer in model.modules() if isinstance(layer, LowRank)}


def learned(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimizer should get: those that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def add_adapters(model: nn.Module, rank: int, alpha: float | None = None,
                 names: Collection[str] | None = None) -> None:
    """Freeze a model and put adapters beside its linear layers, or beside those in `names`.

    A is drawn from torch's global generator. `alpha` is `SCALE` times `rank` unless given. Adapters
    that are there already are frozen too, and stay on. Also on an `empty_model`, to count: rank 16
    gives Qwen2.5-3B 29.9 million weights to learn.

    Raises AdapterError if there is no layer to adapt, none of a name, or, without an `alpha`, none
    as wide as the rank.
    """
    layers = linear_layers(model)
    names = list(layers) if names is None else sorted(names)
    unknown = sorted(set(names) - set(layers))
    if not names or unknown:
        raise AdapterError(f"it has no linear layer {unknown[0]}, for which there are adapters"
                           if unknown else "it has no linear layer to adapt; take --lora 0")
    widest = max(min(layers[name].in_features, layers[name].out_features) for name in names)
    if rank > widest and alpha is None:  # saved ones have more: each run adds its own
        raise AdapterError(f"--lora {rank}: no layer's weights have a rank above {widest}; take no "
                           "more")
    model.requires_grad_(False)
    if alpha is None:  # one of 0 is given: such adapters add nothing
        alpha = SCALE * rank
    for name in names:
        model.set_submodule(name, LowRank(layers[name], rank, alpha))


@contextmanager
def adapters(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, the model answers with its adapters or without; behind, as it did before."""
    layers = list(low_rank_layers(model).values())
    before = [layer.on for layer in layers]
    for layer in layers:
        layer.on = on
    try:
        yield
    finally:
        for layer, was_on in zip(layers, before):
            layer.on = was_on


def second_set(model: nn.Module) -> nn.Module:
    """A model with adapters of its own on the very same frozen weights: PPO's critic.

    Not a switch between two sets in one model: a checkpointed layer runs again in the backward
    pass, when the switch may stand the other way.
    """
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    twin = copy.deepcopy(model, frozen)  # what is in the second argument is not copied
    for layer in low_rank_layers(twin).values():
        nn.init.zeros_(layer.lora_B)
    return twin


# ---- Files ---------------------------------------------------------------------------------------


def empty_model(config) -> nn.Module:
    """The model of a configuration without its weights, in no memory: to count, or to be filled."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def save_merged(model: nn.Module, folder: str | Path,
                weights: dict[str, Tensor] | None = None) -> None:
    """Write the model with its adapters added to the weights, as an ordinary folder in float32.

    `weights` by name stand in for the model's own where those are spread over devices. The model
    itself stays as it is. Needs 4 bytes a weight of the computer's memory.
    """
    layers, merged = low_rank_layers(model), {}
    for name, tensor in (weights or model.state_dict()).items():
        layer, _, kind = name.rpartition(".")
        while layer not in layers and layer.endswith(".base"):  # one step for each adapter above
            layer = layer.removesuffix(".base")
        if layer in layers:
            if kind.startswith("lora_"):
                continue
            name = f"{layer}.{kind}"
            if kind == "weight":
                tensor = tensor.float() + layers[layer].correction()
        tensor = tensor.detach()
        merged[name] = tensor.to("cpu", torch.float32 if tensor.is_floating_point() else None)
    plain = empty_model(model.config)
    plain.load_state_dict(merged, strict=False, assign=True)
    plain.tie_weights()  # a tied head need not be among the weights
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)


def save_adapters(model: nn.Module, folder: str | Path) -> None:
    """Write the adapters alone, in float32, in the format of the PEFT library.

    Those of an earlier run are included. The file has one rank for all layers: a layer that the
    earlier run left alone gets zeros.
    """
    folder, layers = Path(folder), low_rank_layers(model)
    folder.mkdir(parents=True, exist_ok=True)
    factors = {name: layer.factors() for name, layer in layers.items()}
    rank = max(len(A) for A, _ in factors.values())
    tensors = {}
    for name, (A, B) in factors.items():
        absent = rank - len(A)
        tensors[f"{name}.lora_A"] = F.pad(A, (0, 0, 0, absent))
        tensors[f"{name}.lora_B"] = F.pad(B / SCALE, (0, absent))
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True,
        "base_model_name_or_path": model.config.name_or_path, "r": rank,
        "lora_alpha": SCALE * rank, "lora_dropout": 0.0, "bias": "none",
        # PEFT looks for the last part of a name, and finds the same layers in every block.
        "target_modules": sorted({name.rpartition(".")[2] for name in layers})}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({f"{PEFT_PREFIX}{name}.weight": tensor.detach().cpu().contiguous()
               for name, tensor in tensors.items()},
              folder / "adapter_model.safetensors", metadata={"format": "pt"})


def saved_config(folder: str | Path) -> dict | None:
    """The configuration in a folder of adapters; None if it is none. ValueError if broken."""
    path = Path(folder) / "adapter_config.json"
    if not path.is_file():
        return None
    wanted = {"r": int, "lora_alpha": (int, float), "base_model_name_or_path": str}
    try:
        config = json.loads(path.read_text("utf-8"))
        broken = [key for key, kind in wanted.items() if not isinstance(config.get(key), kind)]
        broken += ["r"] if "r" not in broken and config["r"] < 1 else []
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON object ({error})") from error
    # A key that is not known here may change the base model, or what is added to it: refuse it.
    broken += [key for key, value in config.items() if key not in FREE_KEYS
               and value not in HARMLESS_VALUES.get(key, (None, False, 0, "", [], {}))]
    if broken:
        raise ValueError(f"{path}: {broken[0]} = {config.get(broken[0])!r} is not read here")
    return config


def merged_config(folder: str | Path) -> dict | None:
    """The configuration of adapters that the weights in a folder hold; None if they hold none."""
    try:
        return saved_config(Path(folder) / ADAPTER)
    except ValueError:
        return None  # another program's: the weights alone are the model


def base_name(name: str | Path) -> str:
    """The model that saved adapters belong to; of any other folder or hub name itself."""
    config = saved_config(name)
    return config["base_model_name_or_path"] if config else str(name)


def attach_saved(model: nn.Module, folder: str | Path, config: dict) -> None:
    """Put the adapters in a folder, whose `saved_config` is given, beside the weights of a model.

    Raises ValueError, and leaves the model as it is, if the weights in the folder are no adapters
    or are of another model.
    """
    weights = load_file(Path(folder) / "adapter_model.safetensors")
    names = {key.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for key in weights}
    if not names or set(weights) != {f"{PEFT_PREFIX}{layer}.{part}.weight"
                                     for layer in names for part in ("lora_A", "lora_B")}:
        raise ValueError("adapter_model.safetensors holds other weights than lora_A and lora_B")
    for name, layer in linear_layers(model).items():
        for part, shape in (("lora_A", (config["r"], layer.in_features)),
                            ("lora_B", (layer.out_features, config["r"]))):
            key = f"{PEFT_PREFIX}{name}.{part}.weight"
            if name in names and weights[key].shape != shape:
                raise ValueError(f"{key} has the size {tuple(weights[key].shape)}, and not {shape} "
                                 "as the model and adapter_config.json say")
    add_adapters(model, config["r"], config["lora_alpha"], names)
    model.load_state_dict({key.removeprefix(PEFT_PREFIX).removesuffix(".weight"): tensor
                           for key, tensor in weights.items()}, strict=False)


def merge_saved(model: nn.Module, folder: str | Path, config: dict) -> None:
    """Add the adapters in a folder to the weights of their model; see `attach_saved`."""
    attach_saved(model, folder, config)
    for layer, low_rank in low_rank_layers(model).items():
        low_rank.base.weight.data += low_rank.correction()
        model.set_submodule(layer, low_rank.base)
    model.requires_grad_(True)


def take_out(model: nn.Module, folder: str | Path, config: dict) -> bool:
    """Take the adapters in a folder out of weights that hold them, and put them beside these.

    y = ((W + s B A) - s B A) x + s B A x is what it was, whatever the adapters are. But W alone is
    rounded back to what it was before training, and B A is not rounded at all. If the files are
    another model's or lost, nothing changes, because the weights alone are the model. Returns
    whether it was done.
    """
    try:
        attach_saved(model, folder, config)
    except (OSError, ValueError, SafetensorError):
        return False
    for low_rank in low_rank_layers(model).values():
        low_rank.base.weight.data -= low_rank.correction()
    return True


# ---- Computed again instead of kept --------------------------------------------------------------


def checkpoint_layers(model: nn.Module, most_tokens: float = 0) -> None:
    """Keep for the backward pass only what goes into each layer, and compute the rest again there.

    A forward pass more for each backward, and per token and layer some 2 D numbers instead of the
    20 D to 30 D that a layer makes. Micro-batches of at most `most_tokens`, padding included, keep
    everything; infinity means that all do. transformers does this in .train() mode only, which
    would also turn dropout on; here a layer's `forward` is wrapped. Without gradients nothing
    changes.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            vars(layer).pop("forward", None)  # the wrapped one, if there is one
            if most_tokens < inf:
                layer.forward = partial(_sparing, layer.forward, most_tokens)


def _sparing(forward: Callable, most_tokens: float, hidden: Tensor, *rest, **ways):
    """A layer's output for hidden states (B, T, D); nothing inside is kept of many tokens."""
    if hidden.shape[0] * hidden.shape[1] <= most_tokens:
        return forward(hidden, *rest, **ways)
    return again(forward, hidden, *rest, **ways)


def bytes_a_token(model: nn.Module) -> float:
    """Bytes that the layers keep for the backward pass with each token more.

    Counted in passes over 32 and 64 tokens. What both keep, such as adapters in bfloat16, is none
    of a token's.
    """
    def bytes_kept(n_tokens: int) -> int:
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, or its place is used again
            return tensor

        ids = torch.zeros(1, n_tokens, dtype=torch.long, device=next(model.parameters()).device)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with torch.enable_grad(), hooks:
            trunk(model)(input_ids=ids, use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return (bytes_kept(64) - bytes_kept(32)) / 32
