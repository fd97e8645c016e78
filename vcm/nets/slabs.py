"""Decode slab by slab: what `AutoencoderKL.decode` returns, without seams, in a fraction of the memory.

Knows MONAI's decoder and that of MAISI, layer by layer, as they are from MONAI 1.5.1 to 1.6 (tested with
1.6.1); refuses any layer it does not know, so that another version ends in a sentence, not in another
image. Touches nothing of MONAI's but the weights and the settings of those layers. Each
layer still sees the whole volume: convolutions slide along the first spatial axis and carry the two
planes that neighbouring slabs share, and group norms take their statistics over the complete
feature map. So, unlike tiles that are blended, the result equals the plain decode up to rounding.

A feature map need not be stored: MONAI's upsampled ones are computed anew, a few planes at a time,
whenever they are read. Beside the work of one slab, at most two maps are stored: the input x of a
block (its skip needs it to the end), or the map that x is upsampled from, and the map h being
written. The parts in which MAISI itself may run a convolution are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    MaisiConvolution,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)
from monai.networks.blocks import Convolution, SpatialAttentionBlock, UpSample
from monai.networks.nets.autoencoderkl import AEKLResBlock, AutoencoderKL
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.heap import trim_heap

if TYPE_CHECKING:
    from jaxtyping import Float

Read = Callable[[int, int], Tensor]  # (start, stop) -> those planes (B, C, stop - start, Y, Z)


class MapOverflow(VCMError):
    """A feature map does not fit the type in which it was to be stored."""


class SlabDecoding:
    """Part of an autoencoder that can decode either way, under the names that diffusers has."""

    slab: int | None = None
    storage_dtype: torch.dtype | None = None

    def enable_tiling(
        self, slab: int = 2, storage_dtype: torch.dtype | None = torch.float16
    ) -> None:
        """Decode layer by layer in slabs of that many planes: the same result, less memory.

        Where the weights are float32, the largest feature maps are stored as `storage_dtype`. In
        float16 they change an image in 0..1 by less than 1e-3; where one exceeds the range of that
        type, the latent is decoded again with all maps in float32. None stores every map exactly.
        """
        self.slab, self.storage_dtype = slab, storage_dtype

    def disable_tiling(self) -> None:
        """Decode whole feature maps at once."""
        self.slab = None

    def run_decoder(
        self, net: AutoencoderKL, z: Float[Tensor, "B C x y z"]
    ) -> Float[Tensor, "B D X Y Z"]:
        """Raw latent -> raw image."""
        if self.slab is None:
            image: Tensor = net.decode(z)
            return image
        if _computed(net) == torch.float32:
            with suppress(MapOverflow):
                return decode_in_slabs(net, z, self.slab, self.storage_dtype)
        return decode_in_slabs(net, z, self.slab)


@torch.inference_mode()
def decode_in_slabs(
    net: AutoencoderKL, z: Tensor, thickness: int = 2, storage_dtype: torch.dtype | None = None
) -> Float[Tensor, "B D X Y Z"]:
    """Latent (B, C, x, y, z) -> image (B, C', X, Y, Z), as `net.decode(z)` but with little memory.

    thickness [planes of the feature map at hand]: less is smaller; even numbers suit upsampling by
    2. storage_dtype (e.g. torch.float16) stores the feature maps at the resolution of the image in
    that type and so halves them again; every computation stays in the type of the weights. Raises
    MapOverflow, a VCMError, if a map does not fit that type.
    """
    if z.ndim != 5:
        raise VCMError(f"A latent has shape (B, C, x, y, z), this one {tuple(z.shape)}.")
    if thickness < 1:
        raise VCMError(f"A slab of {thickness} planes is empty; thickness must be at least 1.")
    if storage_dtype is not None and not storage_dtype.is_floating_point:
        raise VCMError(f"Feature maps cannot be stored as {storage_dtype}; give a floating type.")
    blocks: Any = net.decoder.blocks
    for block in blocks:
        if type(block) not in _LAYERS:  # exactly: a subclass may compute something else
            raise _unknown(block)
    computed = _computed(net)
    exact = _Slabs(thickness, computed, computed, z.device)
    narrow = replace(exact, storage=storage_dtype or computed)
    # Where to store narrowly: at the resolution of the image, but for the image itself. All else is
    # small beside the maps there, so that it would cost digits and save nothing.
    kinds = [type(block) for block in blocks]
    first = max((i for i, kind in enumerate(kinds) if kind in _UPSAMPLING), default=0)
    x = exact.stored(net.post_quant_conv(z))
    for i, block in enumerate(blocks):
        slabs = narrow if first <= i < len(kinds) - 1 else exact
        x = _LAYERS[type(block)](slabs, block, x)
    return x.read(0, x.shape[2]).contiguous()


def _computed(net: AutoencoderKL) -> torch.dtype:
    """The type of numbers of the weights."""
    return next(net.post_quant_conv.parameters()).dtype


@dataclass(frozen=True)
class _Map:
    """A feature map (B, C, X, Y, Z): kept in memory, or computed anew each time it is read."""

    shape: tuple[int, ...]
    read: Read  # in the computed type; what it returns is the reader's to overwrite


@dataclass(frozen=True)
class _Slabs:
    """How a map is cut along X, the types it is computed and stored in, and where."""

    thickness: int
    computed: torch.dtype
    storage: torch.dtype
    device: torch.device

    def spans(self, extent: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each slab, front to back; the last may be thinner."""
        for start in range(0, extent, self.thickness):
            yield start, min(start + self.thickness, extent)
            if self.device.type == "cpu":
                trim_heap()

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Float[Tensor, "B C X Y Z"]:
        """An unwritten map (B, C, X, Y, Z). With its channels last, a slab is one piece of memory."""
        return torch.empty(
            shape,
            dtype=dtype or self.storage,
            device=self.device,
            memory_format=torch.channels_last_3d,
        )

    def stored(self, x: Float[Tensor, "B C X Y Z"]) -> _Map:
        """X as a map."""
        kept = x.to(self.storage)

        def read(start: int, stop: int) -> Float[Tensor, "B C planes Y Z"]:
            return kept[:, :, start:stop].to(self.computed, copy=True)

        return _Map(tuple(x.shape), read)

    def convolve(
        self,
        layer: nn.Module,
        read: Read,
        out: Float[Tensor, "B C X Y Z"],
        skip: Read | None = None,
    ) -> _Map:
        """Out = layer(all that `read` gives) + skip, and return it.

        Each plane is read once, and before the first plane that depends on it is written: `read`
        may therefore read from `out` itself.
        """
        conv = _same_convolution(layer)
        halo = conv.kernel_size[0] // 2
        extent = out.shape[2]
        planes = min(self.thickness, extent) + 2 * halo
        patch = self.new(
            out.shape[0], conv.in_channels, planes, *out.shape[3:], dtype=self.computed
        )
        # The volume's border is zero after norm and SiLU, hence here and not in what `read` reads.
        patch[:, :, :halo] = 0
        known = 0
        for start, stop in self.spans(extent):
            ahead = min(stop + halo, extent)
            offset = halo - start  # plane j lies at patch[:, :, j + offset]
            if ahead > known:
                patch[:, :, known + offset : ahead + offset] = read(known, ahead)
            patch[:, :, ahead + offset : stop + halo + offset] = 0
            known = ahead
            window = patch[:, :, : stop + halo + offset]
            padding = (0, *(k // 2 for k in conv.kernel_size[1:]))
            value = F.conv3d(window, conv.weight, conv.bias, padding=padding, groups=conv.groups)
            out[:, :, start:stop] = value if skip is None else value.add_(skip(start, stop))
            del value
            # A copy first: in a slab thinner than what it shares, source and target overlap.
            patch[:, :, : 2 * halo] = window[:, :, stop - start :].clone()
        return self.stored(out)

    def affine(
        self, norm: nn.GroupNorm, x: _Map
    ) -> tuple[Float[Tensor, "B C 1 1 1"], Float[Tensor, "B C 1 1 1"]]:
        """(scale, shift), each (B, C, 1, 1, 1), with norm(x) = scale x + shift.

        Moments of a group from those of its c channels in each slab (law of total variance):
            mean = sum w_i mean_i,    var = sum w_i (var_i + (mean_i - mean)^2),    w_i = n_i / (n c)
        which, unlike E[x^2] - E[x]^2, loses nothing where the mean is large.
        """
        wide = torch.promote_types(self.computed, torch.float32)
        grouped = (norm.num_groups, norm.num_channels // norm.num_groups)
        means, variances, weights = [], [], []
        for start, stop in self.spans(x.shape[2]):
            y = x.read(start, stop).to(wide)
            means.append(y.mean((2, 3, 4), keepdim=True))
            variances.append(y.sub_(means[-1]).square_().mean((2, 3, 4)))
            weights.append((stop - start) / (x.shape[2] * grouped[1]))
            del y
        w = torch.tensor(weights, dtype=wide, device=self.device)[:, None, None, None]
        mean_i = torch.stack(means)[..., 0, 0, 0].unflatten(2, grouped)  # (slabs, B, groups, c)
        variance_i = torch.stack(variances).unflatten(2, grouped)
        mean = (w * mean_i).sum((0, 3))  # (B, groups)
        variance = (w * (variance_i + (mean_i - mean[..., None]) ** 2)).sum((0, 3))
        if self.storage != self.computed and not variance.isfinite().all():
            raise MapOverflow(
                f"A feature map is not finite when stored as {self.storage}; "
                "store it as torch.bfloat16, which has the range of float32, or leave storage_dtype out."
            )
        scale = (variance + norm.eps).rsqrt().repeat_interleave(grouped[1], 1)  # (B, C)
        shift = -mean.repeat_interleave(grouped[1], 1) * scale
        if norm.affine:
            scale = scale * norm.weight
            shift = shift * norm.weight + norm.bias
        return scale[..., None, None, None], shift[..., None, None, None]

    def normed(self, norm: nn.GroupNorm, x: _Map) -> Read:
        """Planes of norm(x); the statistics are taken now, over the whole of x."""
        scale, shift = self.affine(norm, x)

        def read(start: int, stop: int) -> Float[Tensor, "B C planes Y Z"]:
            y = x.read(start, stop).to(scale.dtype)
            return y.mul_(scale).add_(shift).to(self.computed)

        return read

    def activated(self, norm: nn.GroupNorm, x: _Map) -> Read:
        """Planes of silu(norm(x))."""
        read = self.normed(norm, x)
        return lambda start, stop: F.silu(read(start, stop), inplace=True)


def _convolution(slabs: _Slabs, layer: Convolution | MaisiConvolution, x: _Map) -> _Map:
    out = slabs.new(x.shape[0], _same_convolution(layer).out_channels, *x.shape[2:])
    return slabs.convolve(layer, x.read, out)


def _residual(slabs: _Slabs, block: AEKLResBlock | MaisiResBlock, x: _Map) -> _Map:
    """conv2(silu(norm2(h))) + shortcut(x), h = conv1(silu(norm1(x))); the sum overwrites h.

    x is read three times: for the moments of norm1, by conv1 and for the shortcut.
    """
    shortcut = _unsplit(block.nin_shortcut)
    out = slabs.new(x.shape[0], block.out_channels, *x.shape[2:])
    h = slabs.convolve(block.conv1, slabs.activated(block.norm1, x), out)
    return slabs.convolve(
        block.conv2,
        slabs.activated(block.norm2, h),
        out,
        skip=lambda start, stop: shortcut(x.read(start, stop)),
    )


def _group_norm(slabs: _Slabs, norm: nn.GroupNorm, x: _Map) -> _Map:
    """Not stored. MONAI's decoder ends with this norm and a convolution, with no SiLU between."""
    return _Map(x.shape, slabs.normed(norm, x))


def _upsample(slabs: _Slabs, block: UpSample, x: _Map) -> _Map:
    """Nearest neighbour, then a convolution; or one transposed convolution whose blocks do not overlap."""
    layers: dict[str, Any] = dict(block.named_children())
    if list(layers) == ["deconv"]:
        deconv = layers["deconv"]
        factor = deconv.stride
        if deconv.kernel_size != factor or any(deconv.padding) or any(deconv.output_padding):
            raise _unknown(deconv, f"kernel {deconv.kernel_size}, stride {factor}")
        return _transposed(x, deconv.weight, deconv.bias, factor, 0, deconv.groups)
    if list(layers) != ["upsample_non_trainable", "postconv"]:
        raise _unknown(block, f"layers {list(layers)}")
    resize = layers["upsample_non_trainable"]
    factor = tuple(int(f) for f in resize.scale_factor or ())
    if resize.mode != "nearest" or factor != resize.scale_factor:
        raise _unknown(resize, f"mode {resize.mode}, scale_factor {resize.scale_factor}")
    conv = _same_convolution(layers["postconv"])
    return _transposed(
        x, _folded(conv, factor), conv.bias, factor, conv.kernel_size[0] // 2, conv.groups
    )


def _folded(conv: nn.Conv3d, factor: tuple[int, ...]) -> Tensor:
    """Kernel of the transposed convolution that equals `conv` after nearest-neighbour upsampling.

    Along one axis, with k taps w, factor f and p = (k - 1) / 2, output j reads input l through
        sum of w[i] over all i with (j + i - p) // f = l
    and that depends on t = j - f l + p only, which runs from 0 to f + k - 2: it is the transposed
    convolution of stride f and padding p with these sums as kernel. For k = 3, f = 2 they are
    (w2, w1 + w2, w0 + w1, w0): an output reads 2 inputs instead of 3, 8 instead of 27 in the volume.
    """
    wide = torch.promote_types(conv.weight.dtype, torch.float32)
    weight = conv.weight.to(wide).unflatten(0, (conv.groups, -1))  # (G, out/G, in/G, k, k, k)
    weight = weight.transpose(1, 2).flatten(0, 1)  # (in, out/G, k, k, k)
    for axis, f in enumerate(factor, 2):
        k = weight.shape[axis]
        sums = [[0 <= i + t - (k - 1) < f for i in range(k)] for t in range(f + k - 1)]
        matrix = torch.tensor(sums, dtype=wide, device=weight.device)
        weight = torch.tensordot(weight, matrix, ([axis], [1])).movedim(-1, axis)
    return weight.to(conv.weight.dtype)


def _transposed(
    x: _Map,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: int,
    groups: int,
) -> _Map:
    """The transposed convolution of x: output j = sum of weight[j + padding - stride l] x[l] over l.

    Not stored: it would be the largest map of its level, and 8 taps per value make it again.
    """
    kernel, step = weight.shape[2], stride[0]

    def read(start: int, stop: int) -> Float[Tensor, "B C planes Y Z"]:
        low = max(-((kernel - 1 - start - padding) // step), 0)  # the first l that start reads
        high = min((stop - 1 + padding) // step + 1, x.shape[2])
        # Planes that x[low:high] also reaches, in front of start and behind stop.
        front = start + padding - step * low
        back = step * (high - low - 1) + kernel - front - (stop - start)
        cut = min(front, back)
        y = F.conv_transpose3d(
            x.read(low, high), weight, bias, stride, (cut, padding, padding), 0, groups
        )
        return y[:, :, front - cut : front - cut + stop - start]

    sizes = zip(x.shape[2:], stride, weight.shape[2:], strict=True)
    extents = [(n - 1) * s + k - 2 * padding for n, s, k in sizes]
    return _Map((x.shape[0], weight.shape[1] * groups, *extents), read)


def _upsample_linearly(slabs: _Slabs, block: MaisiUpsample, x: _Map) -> _Map:
    """Trilinear to twice the extents, then a convolution; not MAISI's transposed one, which overlaps.

    Plane j lies between input planes (j - 1) // 2 and (j - 1) // 2 + 1, the border ones held.
    """
    if block.use_convtranspose:
        raise _unknown(block, "transposed, with overlapping blocks")
    extent = x.shape[2]

    def read(start: int, stop: int) -> Float[Tensor, "B C planes Y Z"]:
        low, high = max((start - 1) // 2, 0), min(stop // 2 + 1, extent)
        y = F.interpolate(x.read(low, high), scale_factor=2.0, mode="trilinear")
        return y[:, :, start - 2 * low : stop - 2 * low]

    channels = _same_convolution(block.conv).out_channels
    out = slabs.new(x.shape[0], channels, *(2 * n for n in x.shape[2:]))
    return slabs.convolve(block.conv, read, out)


def _attention(slabs: _Slabs, block: SpatialAttentionBlock, x: _Map) -> _Map:
    """Plainly: every voxel attends to every other, and only low resolutions can afford it anyway."""
    return slabs.stored(block(x.read(0, x.shape[2]).contiguous()))


_LAYERS: dict[type[nn.Module], Callable[[_Slabs, Any, _Map], _Map]] = {
    Convolution: _convolution,
    AEKLResBlock: _residual,
    nn.GroupNorm: _group_norm,
    UpSample: _upsample,
    SpatialAttentionBlock: _attention,
    MaisiConvolution: _convolution,
    MaisiResBlock: _residual,
    MaisiGroupNorm3D: _group_norm,
    MaisiUpsample: _upsample_linearly,
}


_UPSAMPLING = (UpSample, MaisiUpsample)


def _unsplit(layer: nn.Module) -> nn.Module:
    """MONAI's `Convolution` in that of MAISI; any other layer as it is."""
    return layer.conv if type(layer) is MaisiConvolution else layer


def _same_convolution(layer: nn.Module) -> nn.Conv3d:
    """The one Conv3d in MONAI's `Convolution`, if it keeps the extents and reaches one plane at most."""
    children = list(_unsplit(layer).children())
    if len(children) != 1 or not isinstance(children[0], nn.Conv3d):
        raise _unknown(layer, f"layers {[type(child).__name__ for child in children]}")
    conv = children[0]
    known = (
        set(conv.stride) == set(conv.dilation) == {1}
        and conv.kernel_size in ((1, 1, 1), (3, 3, 3))
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
        and conv.padding_mode == "zeros"
    )
    if not known:
        raise _unknown(conv, repr(conv))
    return conv


def _unknown(layer: nn.Module, detail: str = "") -> VCMError:
    what = type(layer).__name__ + (f" ({detail})" if detail else "")
    return VCMError(f"{what} cannot be decoded in slabs; use the plain `net.decode`.")
