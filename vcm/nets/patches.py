"""Space-to-depth in 3D and back: lossless, channel c of patch voxel p becomes c * f^3 + p."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def to_patches(x: Tensor, factor: int) -> Tensor:
    """(B, C, X f, Y f, Z f) -> (B, C f^3, X, Y, Z)."""
    if factor == 1:
        return x
    pattern = "b c (x p) (y q) (z r) -> b (c p q r) x y z"
    return rearrange(x, pattern, p=factor, q=factor, r=factor)


def from_patches(x: Tensor, factor: int) -> Tensor:
    """(B, C f^3, X, Y, Z) -> (B, C, X f, Y f, Z f)."""
    if factor == 1:
        return x
    pattern = "b (c p q r) x y z -> b c (x p) (y q) (z r)"
    return rearrange(x, pattern, p=factor, q=factor, r=factor)
