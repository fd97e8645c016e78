"""Space-to-depth in 3D and back: lossless, channel c of patch voxel p becomes c * f^3 + p."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def to_patches(
    x: Float[Tensor, "B C X Y Z"], factor: int
) -> Float[Tensor, "B C*{factor}**3 X//{factor} Y//{factor} Z//{factor}"]:
    """(B, C, X f, Y f, Z f) -> (B, C f^3, X, Y, Z)."""
    if factor == 1:
        return x
    pattern = "b c (x p) (y q) (z r) -> b (c p q r) x y z"
    return rearrange(x, pattern, p=factor, q=factor, r=factor)


def from_patches(
    x: Float[Tensor, "B C x y z"], factor: int
) -> Float[Tensor, "B C//{factor}**3 x*{factor} y*{factor} z*{factor}"]:
    """(B, C f^3, X, Y, Z) -> (B, C, X f, Y f, Z f)."""
    if factor == 1:
        return x
    pattern = "b (c p q r) x y z -> b c (x p) (y q) (z r)"
    return rearrange(x, pattern, p=factor, q=factor, r=factor)
