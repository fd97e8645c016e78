"""Shapes and types of numbers in annotations of tensors, compared at every call while tests run.

The package imports jaxtyping for type checkers alone, so that its annotations cost a user nothing.
"""

import builtins

import jaxtyping

CHECKED = ("vcm.nets", "vcm.diffusion", "vcm.pipeline")


def check_shapes() -> None:
    """To be called before any module of CHECKED is imported."""
    for name in ("Bool", "Float", "Int", "Num", "Shaped", "UInt8"):
        setattr(builtins, name, getattr(jaxtyping, name))
    jaxtyping.install_import_hook(CHECKED, "beartype.beartype")
