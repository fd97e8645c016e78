"""Decode slab by slab: what `AutoencoderKL.decode` returns, without seams, in a fraction of the memory.

Knows MONAI's decoder and that of MAISI, layer by layer; refuses any layer it does not know. Each
layer still sees the whole volume: convolutions slide along the first spatial axis and carry the two
planes that neighbouring slabs share, and group norms take their statistics over the complete
feature map. So, unlike tiles that are blended, the result equals the plain decode up to rounding.
Beside the work of one slab, at most two feature maps are alive: the input x of a block (its skip
needs it to the end) and the map h being written. The parts in which MAISI itself may run a
convolution are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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

Read = Callable[[int, int], Tensor]  # (start, stop) -> those planes (B, C, stop - start, Y, Z)


class SlabDecoding:
    """Part of an autoencoder that can decode either way, under the names that diffusers has."""

    slab: int | None = None

    def enable_tiling(self, slab: int = 16) -> None:
        """Decode layer by layer in slabs of that many planes: the same result, less memory."""
        self.slab = slab

    def disable_tiling(self) -> None:
        """Decode whole feature maps at once."""
        self.slab = None

    def run_decoder(self, net: AutoencoderKL, z: Tensor) -> Tensor:
        """Raw latent -> raw image."""
        if self.slab is not None:
            return decode_in_slabs(net, z, self.slab)
        image: Tensor = net.decode(z)
        return image


@torch.inference_mode()
def decode_in_slabs(
    net: AutoencoderKL, z: Tensor, thickness: int = 16, storage_dtype: torch.dtype | None = None
) -> Tensor:
    """Latent (B, C, x, y, z) -> image (B, C', X, Y, Z), as `net.decode(z)` but with little memory.

    thickness [planes of the feature map at hand]: more is faster, less is smaller. storage_dtype
    (e.g. torch.float16) stores the feature maps between layers in that type and so halves them
    again; every computation stays in the type of the weights.
    """
    if z.ndim != 5:
        raise VCMError(f"A latent has shape (B, C, x, y, z), this one {tuple(z.shape)}.")
    if thickness < 1:
        raise VCMError(f"A slab of {thickness} planes is empty; thickness must be at least 1.")
    if storage_dtype is not None and not storage_dtype.is_floating_point:
        raise VCMError(f"Feature maps cannot be stored as {storage_dtype}; give a floating type.")
    for block in net.decoder.blocks:
        if type(block) not in _LAYERS:  # exactly: a subclass may compute something else
            raise _unknown(block)
    computed = net.post_quant_conv.conv.weight.dtype
    slabs = _Slabs(thickness, computed, storage_dtype or computed)
    x = net.post_quant_conv(z).to(slabs.stored)
    *blocks, last = net.decoder.blocks
    for block in blocks:
        x = _LAYERS[type(block)](slabs, block, x)
    # The image is small beside the maps: storing it in half would cost digits and save nothing.
    return _LAYERS[type(last)](replace(slabs, stored=computed), last, x)


@dataclass(frozen=True)
class _Slabs:
    """How a feature map (B, C, X, Y, Z) is cut along X, and the types it is computed and kept in."""

    thickness: int
    computed: torch.dtype
    stored: torch.dtype

    def spans(self, extent: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each slab, front to back; the last may be thinner."""
        for start in range(0, extent, self.thickness):
            yield start, min(start + self.thickness, extent)

    def new(self, x: Tensor, channels: int, factor: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        """An unwritten map with x's batch, other channels and `factor` times its extents."""
        extents = [n * f for n, f in zip(x.shape[2:], factor, strict=True)]
        return torch.empty(x.shape[0], channels, *extents, dtype=self.stored, device=x.device)

    def convolve(
        self, layer: nn.Module, read: Read, out: Tensor, skip: Read | None = None
    ) -> Tensor:
        """out = layer(all that `read` gives) + skip, and return it.

        Each plane is read once, and before the first plane that depends on it is written: `read`
        may therefore read from `out` itself.
        """
        conv = _same_convolution(layer)
        halo = conv.padding[0]
        extent = out.shape[2]
        # The volume's border is zero after norm and SiLU, hence here and not in what `read` reads.
        border = torch.zeros(
            (out.shape[0], conv.in_channels, halo, *out.shape[3:]),
            dtype=self.computed,
            device=out.device,
        )
        overlap, known = border, 0
        for start, stop in self.spans(extent):
            ahead = min(stop + halo, extent)
            parts = [overlap]
            if ahead > known:
                parts.append(read(known, ahead))
            if ahead < stop + halo:
                parts.append(border)
            known = ahead
            patch = torch.cat(parts, 2)
            del parts  # it would keep a second copy of the slab during the convolution
            padding = (0, *conv.padding[1:])
            value = F.conv3d(patch, conv.weight, conv.bias, padding=padding, groups=conv.groups)
            overlap = patch[:, :, patch.shape[2] - 2 * halo :].clone()
            del patch
            out[:, :, start:stop] = value if skip is None else value.add_(skip(start, stop))
            del value
        return out

    def affine(self, norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (B, C, 1, 1, 1), with norm(x) = scale x + shift.

        Moments of the whole map from those of its slabs (law of total variance):
            mean = sum w_i mean_i,    var = sum w_i (var_i + (mean_i - mean)^2),    w_i = n_i / n
        which, unlike E[x^2] - E[x]^2, loses nothing where the mean is large.
        """
        wide = torch.promote_types(self.computed, torch.float32)
        grouped = x.unflatten(1, (norm.num_groups, -1))
        extent = x.shape[2]
        moments = [
            torch.var_mean(grouped[:, :, :, a:b].to(wide), (2, 3, 4, 5), correction=0)
            for a, b in self.spans(extent)
        ]
        variances, means = (torch.stack(column) for column in zip(*moments, strict=True))
        weights = [(b - a) / extent for a, b in self.spans(extent)]
        w = torch.tensor(weights, dtype=wide, device=x.device)[:, None, None]
        mean = (w * means).sum(0)
        variance = (w * (variances + (means - mean) ** 2)).sum(0)  # (B, groups)
        if self.stored != self.computed and not variance.isfinite().all():
            raise VCMError(
                f"A feature map is not finite when stored as {self.stored}; "
                "store it as torch.bfloat16, which has the range of float32, or leave storage_dtype out."
            )
        repeats = norm.num_channels // norm.num_groups
        scale = (variance + norm.eps).rsqrt().repeat_interleave(repeats, 1)  # (B, C)
        shift = -mean.repeat_interleave(repeats, 1) * scale
        if norm.affine:
            scale = scale * norm.weight
            shift = shift * norm.weight + norm.bias
        return scale[..., None, None, None], shift[..., None, None, None]

    def plain(self, x: Tensor) -> Read:
        """Planes of x as they are, in the computed type."""
        return lambda start, stop: x[:, :, start:stop].to(self.computed)

    def activated(self, norm: nn.GroupNorm, x: Tensor) -> Read:
        """Planes of silu(norm(x)); the statistics are taken now, over the whole of x."""
        scale, shift = self.affine(norm, x)

        def read(start: int, stop: int) -> Tensor:
            y = torch.addcmul(shift, x[:, :, start:stop].to(scale.dtype), scale)
            return F.silu(y, inplace=True).to(self.computed)

        return read


def _convolution(slabs: _Slabs, layer: Convolution, x: Tensor) -> Tensor:
    out = slabs.new(x, _same_convolution(layer).out_channels)
    return slabs.convolve(layer, slabs.plain(x), out)


def _residual(slabs: _Slabs, block: AEKLResBlock | MaisiResBlock, x: Tensor) -> Tensor:
    """conv2(silu(norm2(h))) + shortcut(x), h = conv1(silu(norm1(x))); the sum overwrites h."""
    shortcut = _unsplit(block.nin_shortcut)
    h = slabs.new(x, block.out_channels)
    slabs.convolve(block.conv1, slabs.activated(block.norm1, x), h)
    read_x = slabs.plain(x)
    return slabs.convolve(
        block.conv2,
        slabs.activated(block.norm2, h),
        h,
        skip=lambda start, stop: shortcut(read_x(start, stop)),
    )


def _group_norm(slabs: _Slabs, norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """In place. MONAI's decoder ends with this norm and a convolution, with no SiLU between."""
    scale, shift = slabs.affine(norm, x)
    for start, stop in slabs.spans(x.shape[2]):
        x[:, :, start:stop] = torch.addcmul(shift, x[:, :, start:stop].to(scale.dtype), scale)
    return x


def _upsample(slabs: _Slabs, block: UpSample, x: Tensor) -> Tensor:
    """Nearest neighbour, then a convolution; or one transposed convolution whose blocks do not overlap."""
    layers = dict(block.named_children())
    if list(layers) == ["deconv"]:
        return _deconvolve(slabs, layers["deconv"], x)
    if list(layers) != ["upsample_non_trainable", "postconv"]:
        raise _unknown(block, f"layers {list(layers)}")
    resize, conv = layers.values()
    factor = tuple(int(f) for f in resize.scale_factor or ())
    if resize.mode != "nearest" or factor != resize.scale_factor:
        raise _unknown(resize, f"mode {resize.mode}, scale_factor {resize.scale_factor}")

    def read(start: int, stop: int) -> Tensor:
        low = start // factor[0]
        y = resize(x[:, :, low : -(-stop // factor[0])].to(slabs.computed))
        return y[:, :, start - low * factor[0] : stop - low * factor[0]]

    out = slabs.new(x, _same_convolution(conv).out_channels, factor)
    return slabs.convolve(conv, read, out)


def _upsample_linearly(slabs: _Slabs, block: MaisiUpsample, x: Tensor) -> Tensor:
    """Trilinear to twice the extents, then a convolution; not MAISI's transposed one, which overlaps.

    Plane j lies between input planes (j - 1) // 2 and (j - 1) // 2 + 1, the border ones held.
    """
    if block.use_convtranspose:
        raise _unknown(block, "transposed, with overlapping blocks")
    extent = x.shape[2]

    def read(start: int, stop: int) -> Tensor:
        low, high = max((start - 1) // 2, 0), min(stop // 2 + 1, extent)
        y = F.interpolate(x[:, :, low:high].to(slabs.computed), scale_factor=2.0, mode="trilinear")
        return y[:, :, start - 2 * low : stop - 2 * low]

    out = slabs.new(x, _same_convolution(block.conv).out_channels, (2, 2, 2))
    return slabs.convolve(block.conv, read, out)


def _deconvolve(slabs: _Slabs, deconv: nn.ConvTranspose3d, x: Tensor) -> Tensor:
    factor = deconv.stride
    if deconv.kernel_size != factor or any(deconv.padding) or any(deconv.output_padding):
        raise _unknown(deconv, f"kernel {deconv.kernel_size}, stride {factor}")
    out = slabs.new(x, deconv.out_channels, factor)
    for start, stop in slabs.spans(x.shape[2]):
        planes = x[:, :, start:stop].to(slabs.computed)
        out[:, :, start * factor[0] : stop * factor[0]] = deconv(planes)
    return out


def _attention(slabs: _Slabs, block: SpatialAttentionBlock, x: Tensor) -> Tensor:
    """Plainly: every voxel attends to every other, and only low resolutions can afford it anyway."""
    return block(x.to(slabs.computed)).to(slabs.stored)


_LAYERS: dict[type[nn.Module], Callable[[_Slabs, nn.Module, Tensor], Tensor]] = {
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
