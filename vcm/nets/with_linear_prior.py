"""Any control method, started from a linear reading of its conditions, as VCM can be.

The method steers a model that says raw + m (P(z_hat) - raw) instead of raw, see LinearPrior; so methods
are compared on what they learn beyond a line, from one start. Not in any of the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from vcm.nets.condition_encoder import ConditionEncoder
from vcm.nets.condition_features import ConditionFeatures
from vcm.nets.control import Steered
from vcm.nets.controlnet import ControlNetLite, ControlNetModule
from vcm.nets.frozen import FrozenDenoiser, Residuals
from vcm.nets.linear_prior import LinearPrior
from vcm.nets.maisi_controlnet import MaisiControlNet
from vcm.nets.mcm import ModulatingConditionModule
from vcm.nets.patches import from_patches
from vcm.nets.saved import ModelMixin
from vcm.nets.t2i_adapter import T2IAdapter

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num

METHODS: dict[str, Any] = {
    "mcm": ModulatingConditionModule,
    "controlnet": ControlNetModule,
    "controlnet-lite": ControlNetLite,
    "t2i-adapter": T2IAdapter,
    "maisi-controlnet": MaisiControlNet,
}


class WithLinearPrior(ConditionFeatures, ModelMixin):
    """A method of METHODS by name, with the configuration it is made of, and its prior.

    Its features are the linear reading of the latent, C channels, and behind it the method's own. With
    fold f > 1 they lie on a grid f times as coarse as the latent's, and the reading is C f^3 channels.
    """

    @register_to_config
    def __init__(
        self,
        *,
        method: str,
        configuration: dict[str, Any],
        latent_channels: int,
        prior_shape: Sequence[int],
        fold: int = 1,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.control = METHODS[method](**configuration)
        self.condition_channels = self.control.condition_channels
        self.downsampling = self.control.downsampling
        x, y, z = prior_shape
        self.prior = LinearPrior(latent_channels, (x, y, z))
        self.encoders = nn.ModuleList(
            ConditionEncoder(n, (latent_channels * fold**3,), 0, 1, self.downsampling, halve=False)
            for n in self.condition_channels
        )

    @classmethod
    def around(
        cls, control: Any, latent_channels: int, prior_shape: Sequence[int], fold: int = 1
    ) -> WithLinearPrior:
        """Around a control that is made already, with its weights."""
        own = {k: v for k, v in control.config.items() if not k.startswith("_")}
        made = cls(
            method=next(name for name, kind in METHODS.items() if type(control) is kind),
            configuration=own,
            latent_channels=latent_channels,
            prior_shape=tuple(prior_shape),
            fold=fold,
        )
        made.control = control
        return made

    def encode(
        self, conditions: Tensor | Sequence[Tensor | None], keep: Bool[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B F u v w"]:
        """See ConditionFeatures; (B, C f^3 + F, x / f, y / f, z / f)."""
        own: Tensor = self.control.encode(conditions, keep)
        return torch.cat([super().encode(conditions, keep).to(own.dtype), own], 1)

    def steer(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F u v w"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """See vcm.nets.control.Control."""
        count = z_t.shape[1] * self.fold**3
        reading = from_patches(features[:, :count], self.fold).expand_as(z_t).to(z_t.dtype)
        started = _Started(frozen, self.prior, reading, conditioning_scale)
        found: Steered = self.control.steer(
            started, z_t, t, inputs, features[:, count:], conditioning_scale
        )
        return found._replace(unsteered=None if found.unsteered is None else started.plain)


class _Started:
    """A frozen model that says what it says mixed with what the reading tells; else as it is."""

    def __init__(
        self,
        frozen: FrozenDenoiser,
        prior: LinearPrior,
        reading: Float[Tensor, "B C x y z"],
        scale: float,
    ) -> None:
        self._frozen: Any = frozen
        self._prior, self._reading, self._scale = prior, reading, scale
        # A method that needs no gradient through the frozen model still trains the prior.
        self._trains = torch.is_grad_enabled()
        self.plain: Float[Tensor, "B C x y z"] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frozen, name)

    def __call__(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        residuals: Residuals | None = None,
    ) -> Float[Tensor, "B C x y z"]:
        """See FrozenDenoiser."""
        self.plain = self._frozen(z_t, t, inputs, residuals).to(z_t.dtype)
        return self._mixed(self.plain, z_t, t)

    def with_encoder_maps(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        maps: Sequence[Float[Tensor, "#B _ _ _ _"]],
    ) -> Float[Tensor, "B C x y z"]:
        """See LatentDenoiser."""
        raw = self._frozen.with_encoder_maps(z_t, t, inputs, maps).to(z_t.dtype)
        return self._mixed(raw, z_t, t)

    def _mixed(
        self, raw: Float[Tensor, "B C x y z"], z_t: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        times = torch.as_tensor(t, device=z_t.device).expand(len(z_t))
        with torch.set_grad_enabled(self._trains):
            mixed = self._prior(self._frozen, z_t, times, raw, self._reading)
            return raw + self._scale * (mixed - raw)
