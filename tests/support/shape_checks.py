"""Shapes and types of numbers in annotations of tensors, compared at every call while tests run.

The package imports jaxtyping for type checkers alone, so that its annotations cost a user nothing.
"""

import builtins

import jaxtyping
from beartype import BeartypeConf, beartype

CHECKED = ("vcm.nets", "vcm.diffusion", "vcm.pipeline")
#: Where float is wanted, int will do, as for type checkers.
compare = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_shapes() -> None:
    """To be called before any module of CHECKED is imported."""
    for name in ("Bool", "Float", "Int", "Num", "Shaped", "UInt8"):
        setattr(builtins, name, getattr(jaxtyping, name))
    jaxtyping.install_import_hook(CHECKED, "shape_checks.compare")
