"""A device that is not the CPU, for machines that have none: tensors on "pretended".

    from pretended import Pretended          # in a process of its own: this cannot be undone
    with Pretended():
        torch.ones(3, device="pretended") + torch.ones(3)       # RuntimeError, as on a GPU

A tensor there wraps one of the CPU, which does the work. What a GPU refuses is refused: to compute
with tensors of both devices (but for copies, single numbers, and indices that lie on the CPU), and
to draw with a generator of the other one. It does not know `out=`, nor a GPU's own kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "pretended"
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
           aten._index_put_impl_.default}


class Backend(_DummyBackendModule):
    """What torch asks a backend's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, Backend())
DEVICE = torch.device(NAME, 0)


class Far(Tensor):
    """A tensor of the device; `near` is the one of the CPU behind it, strides and all."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        far = Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=DEVICE)
        far.near = near
        return far

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    def tolist(self) -> list:  # torch refuses this for wrappers
        return self.near.tolist()

    def __reduce_ex__(self, protocol):  # a file holds numbers, wherever they were
        return self.near.__reduce_ex__(protocol)


class Pretended(TorchDispatchMode):
    """Inside, `device="pretended"` makes tensors there."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def is_there(device: object) -> bool:
    """Whether this is the pretended device."""
    return isinstance(device, torch.device) and device.type == NAME


def compute(operation, args: tuple, kwargs: dict):
    """An operation on tensors of either device, or a RuntimeError if it mixes them."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = any(isinstance(x, Far) for x in tensors)
    if there and operation not in COPIES:
        others = [x for x in tensors if not isinstance(x, Far) and x.ndim]
        if operation in INDEXED and isinstance(args[0], Far):
            indices = {id(x) for x in tree_leaves(args[1])}
            others = [x for x in others if id(x) not in indices]
        if others:
            raise RuntimeError(f"{operation}: a tensor {tuple(others[0].shape)} of the CPU beside "
                               f"tensors on {NAME}")
    if kwargs.get("device") is not None:
        there = is_there(kwargs["device"])
    elif operation in COPIES:
        there = isinstance(args[0], Far)
    generator = kwargs.get("generator")
    if generator is not None and (generator._cdata in THERE) != there:
        raise RuntimeError(f"{operation}: a generator of another device")
    if operation is aten._fused_sdp_choice.default and there:
        return 0  # attention by plain matrix products
    written = [x for x, argument in zip(args, operation._schema.arguments)
               if argument.alias_info is not None and argument.alias_info.is_write]
    args, kwargs = tree_map(on_cpu, (args, kwargs))
    found = operation(*args, **kwargs)
    if written and isinstance(found, Tensor):
        return written[0]  # in place: the very tensor that was given
    return tree_map(lambda x: Far(x) if isinstance(x, Tensor) else x, found) if there else found


def on_cpu(x: object) -> object:
    """What stands behind a tensor of the device, or the device itself; other things as they are."""
    if is_there(x):
        return torch.device("cpu")
    return x.near if isinstance(x, Far) else x


# ---- What goes past `__torch_dispatch__` ---------------------------------------------------------

library, every = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
# torch.tensor makes its result and fills it by these two:
library.impl("empty_strided", lambda size, stride, dtype=None, **kind: Far(
    torch.empty_strided(size, stride, dtype=dtype)), "PrivateUse1")
library.impl("_copy_from", lambda x, to, blocking=False: on_cpu(to).copy_(on_cpu(x)), "PrivateUse1")
every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def in_half(name: str) -> None:
    """Let autocast do what it does on a GPU: multiply in bfloat16."""
    operation = getattr(aten, name).default
    cast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def half(x: object) -> object:
        return x.bfloat16() if isinstance(x, Tensor) and x.dtype == torch.float32 else x

    def run(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(cast):
            return operation(*tree_map(half, args), **tree_map(half, kwargs))

    library.impl(name, run, "AutocastPrivateUse1")


for name in ("linear", "matmul", "scaled_dot_product_attention"):
    in_half(name)

# The device's generators, which are the CPU's; kept, so that no other gets the address of one.
THERE: dict[int, torch.Generator] = {}
Own = torch.Generator


class Generator(Own):
    """A generator that says where it is."""

    def __new__(cls, device: str | torch.device = "cpu") -> Generator:
        generator = Own.__new__(cls, "cpu")
        if torch.device(device).type == NAME:
            THERE[generator._cdata] = generator
        return generator

    @property
    def device(self) -> torch.device:
        return DEVICE if self._cdata in THERE else torch.device("cpu")


torch.Generator = Generator
