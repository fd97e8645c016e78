"""A device that is not the CPU and computes like it: what nobody moved is found on any machine.

Tensors on `other:0` hold a CPU tensor and say that they lie elsewhere. An operation that meets a
tensor of each device raises what CUDA raises, `.numpy()` is refused, and everything else gives the
CPU's bits, so a whole command can be run there and compared with the CPU.

As on CUDA, numbers (tensors without axes) may come from the CPU, and so may indices.

Where there is a GPU, the GPU is tested in its place: torch takes one kind of accelerator per process,
and once this one is registered, autograd and `torch.accelerator` no longer find CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
import torch.utils.backend_registration as registration
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "other"
_aten = torch.ops.aten
#: Operations that bring values from one device to the other.
ACROSS = {_aten.copy_.default, _aten._to_copy.default}
#: Operations whose indices may lie on the CPU.
INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}


class Plugged:
    """Whether the device is there; torch has no way to take a backend back."""

    now = False


@cache
def _register() -> torch.library.Library:
    class Module(registration._DummyBackendModule):
        def is_available(self) -> bool:
            return Plugged.now

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

        def synchronize(self, *_: object) -> None:
            """Nothing runs ahead."""

    class Hook(registration._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return Plugged.now

    registration._setup_privateuseone_for_python_backend(NAME, Module(), Hook())
    autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel)
    return autocast


class OtherTensor(Tensor):
    """A tensor that lies on the device; `held` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OtherTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), None, held.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"OtherTensor({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __getitem__(self, index: Any) -> Tensor:
        # Torch moves a list of indices to the device from within itself, unseen by what is here.
        parts = index if isinstance(index, tuple) else (index,)
        moved = (torch.tensor(x).to(self.device) if isinstance(x, list) else x for x in parts)
        return super().__getitem__(tuple(moved))

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _WithoutGradients:
    """Stands for inference mode, in which operations would arrive whole and views could not be made."""

    def __init__(self, mode: bool) -> None:
        self.context: Any = torch.no_grad() if mode else nullcontext()

    def __enter__(self) -> None:
        self.context.__enter__()

    def __exit__(self, *raised: object) -> None:
        self.context.__exit__(*raised)


class _Factories(TorchDispatchMode):
    """Operations without a tensor of the device, which may make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OtherTensor)]
    here = [x for x in tensors if not isinstance(x, OtherTensor) and x.dim()]
    if there and here and func not in ACROSS | INDEXED:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got one on {NAME}:0 and "
            f"one on cpu: {[tuple(x.shape) for x in there]}, {[tuple(x.shape) for x in here]}"
        )
    asked = kwargs.get("device")
    stays = bool(there) if asked is None else torch.device(asked).type == NAME
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu"), "pin_memory": False}
    if func is _aten._to_copy.default:
        kwargs.pop("pin_memory", None)
    held_args, held_kwargs = tree_map_only(OtherTensor, lambda x: x.held, (args, kwargs))
    found = func(*held_args, **held_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    if not stays:
        return found
    wrapped = {id(x.held): x for x in there}  # what an operation in place gives back
    return tree_map_only(
        Tensor, lambda x: wrapped[id(x)] if id(x) in wrapped else OtherTensor(x), found
    )


@contextmanager
def plugged_in() -> Iterator[torch.device]:
    """The device is there: `auto` chooses it, and so does accelerate. Skips the test beside a GPU."""
    if torch.cuda.is_available():
        pytest.skip(
            "there is a GPU, which is tested in place of the device that computes as the CPU"
        )
    _register()
    default, swaps = PartialState.default_device, torch.__future__
    inference = torch._C._InferenceMode
    swapped = swaps.get_swap_module_params_on_conversion()
    device = torch.device(NAME, 0)
    PartialState.default_device = property(lambda self: device)  # type: ignore[assignment]
    # As with CUDA, a parameter that moves stays the same object.
    swaps.set_swap_module_params_on_conversion(True)
    torch._C._InferenceMode = _WithoutGradients  # type: ignore[misc,assignment]
    Plugged.now = True
    # Accelerate keeps the device of the first training in a process for all that follow.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with _Factories():
            yield device
    finally:
        Plugged.now = False
        AcceleratorState._reset_state(reset_partial_state=True)
        torch._C._InferenceMode = inference  # type: ignore[misc]
        swaps.set_swap_module_params_on_conversion(swapped)
        PartialState.default_device = default  # type: ignore[method-assign]
