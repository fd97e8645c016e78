"""The one object a user holds: frozen model, module, scheduler and covariate ranges, in one folder.

Follows diffusers: from_pretrained, save_pretrained, a call that samples. Tensors in, tensors out;
files and millimetres are the affair of `vcm synthesize`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils.outputs import BaseOutput
from numpy.typing import NDArray
from torch import Generator, Tensor

from vcm.diffusion.sampling import check_scheduler, flow_shift, make_scheduler, sample
from vcm.errors import VCMError
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.volume import Grid
from vcm.inputs import InputRule
from vcm.precision import resolve_precision

StepEnd = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class VCMPipelineOutput(BaseOutput):
    """volumes: (B, 1, X, Y, Z) in 0..1 as tensor or array, or latents (B, C, x, y, z)."""

    volumes: Any


class VCMPipeline(DiffusionPipeline):
    """Latent diffusion steered by a Volumetric Conditioning Module (arXiv 2410.21826).

    autoencoder, denoiser   frozen; what they offer is in vcm.nets.frozen
    scheduler               any diffusers scheduler that takes what the denoiser gives: epsilon over
                            the same 1000 steps, or a velocity for flow matching
    module                  a control method (vcm.nets.control), or None: the frozen model alone, as `vcm pretrain diffusion` leaves it
    detail                  what `vcm upsample` adds to an expected brain, vcm.nets.detail, or None
    conditions              names of what its encoders read, in their order
    inputs                  names of what the denoiser is told, in its order; see vcm.nets.frozen
    covariate_ranges        least and greatest value seen in training, by covariate, in its unit
    population              of the training subjects: "typical_age" [years] and "expected_volumes",
                            see vcm.imaging.covariates.expected_volumes
    temperature             scale of the noise to begin with, where a call gives none: below 1 a
                            sample keeps closer to what the model expects, as truncation does in
                            other generators (Brock et al. 2019, arXiv 1809.11096)
    grid                    "shape" and "affine" (voxel -> common space, RAS+ [mm]) of its volumes
    sampling                "scheduler" (by name, see vcm.diffusion.sampling) and "steps" that `vcm
                            synthesize` takes where nothing is said; by default the one saved, and 50
    """

    model_cpu_offload_seq = "module->denoiser->autoencoder"
    _optional_components: ClassVar = ["module", "detail"]
    _callback_tensor_inputs: ClassVar = ["latents"]

    def __init__(
        self,
        autoencoder: ModelMixin,
        denoiser: ModelMixin,
        scheduler: Any,
        module: ModelMixin | None = None,
        conditions: Any = None,
        inputs: Any = COVARIATES,
        covariate_ranges: Any = None,
        population: Any = None,
        temperature: float = 1.0,
        grid: Any = None,
        sampling: Any = None,
        detail: ModelMixin | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            scheduler=scheduler,
            module=module,
            detail=detail,
        )
        ranges: Any = {name: list(pair) for name, pair in (covariate_ranges or {}).items()}
        self.register_to_config(
            conditions=list(conditions or []),
            inputs=list(inputs),
            covariate_ranges=ranges,
            population=dict(population or {}),
            temperature=temperature,
            grid=dict(grid or {}),
            sampling=dict(sampling or {}),
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """As diffusers has it, from a local folder.

        diffusers loads components only from modules that are imported already; those of this
        package, and no others, are imported here.
        """
        index = Path(pretrained_model_name_or_path) / "model_index.json"
        if index.is_file():
            for entry in json.loads(index.read_text(encoding="utf-8")).values():
                library = entry[0] if isinstance(entry, list) and entry else None
                if isinstance(library, str) and library.startswith("vcm.nets."):
                    import_module(library)
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    def use_scheduler(self, name: str) -> None:
        """Sample with that scheduler, told what it must know of these latents. Raises VCMError."""
        check_scheduler(name, self.denoiser.steps_with)
        flow = self.denoiser.steps_with == "flow"
        options = {"shift": flow_shift(self.latent_shape)} if flow else {}
        self.scheduler = make_scheduler(name, **options)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Trained range of each covariate, in its unit."""
        return {n: (float(a), float(b)) for n, (a, b) in self.config.covariate_ranges.items()}

    @property
    def volume_grid(self) -> Grid:
        """Voxels of the model's volumes, in common space."""
        x, y, z = self.config.grid["shape"]
        return Grid((x, y, z), np.asarray(self.config.grid["affine"], dtype=np.float64))

    @property
    def input_rule(self) -> InputRule:
        """What the denoiser is told beside the latent, see vcm.inputs."""
        return InputRule(
            tuple(self.config.inputs),
            dict(sorted(self.ranges.items())),
            dict(self.config.population),
            self.volume_grid.spacing,
        )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, x, y, z) of one latent."""
        return tuple(self.autoencoder.latent_shape)

    @torch.inference_mode()
    def __call__(
        self,
        conditions: Tensor | Sequence[Tensor | None] | None = None,
        covariates: Tensor | None = None,
        num_volumes: int | None = None,
        num_inference_steps: int = 50,
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        temperature: float | None = None,
        conditioning_scale: float = 1.0,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
        features: Tensor | None = None,
        precision: str = "float32",
        callback_on_step_end: StepEnd | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
    ) -> VCMPipelineOutput | tuple[Any]:
        """Sample volumes that obey the conditions.

        conditions               (1 or B, C_k, X, Y, Z) per condition, None where absent; None for
                                 all: uncontrolled
        covariates               (1 or B, K) what the denoiser is told, in the order of `inputs`; for
                                 brain2mm and BrainLDM the four covariates in 0..1
        num_volumes              B; by default what generator, latents or covariates say
        generator                one per volume, or one for all in turn
        temperature              scale of that noise; None: the model's own
        latents                  (B, C, x, y, z) unit noise to begin with, instead of drawing it
        control_guidance_*       the module acts from this to that fraction of the steps
        features                 what `encode` made of the conditions, instead of them
        precision                float32 | bfloat16 | auto of the denoising; the rest stays in float32
        callback_on_step_end     (pipeline, i, t, {"latents"}) -> dict, called for each volume
        output_type              pt | np | latent

        Volumes are sampled one after the other: sample k is the same, bit for bit, whichever
        others are asked for, and memory does not grow with their number.
        """
        if covariates is None:
            raise VCMError("No covariates are given: pass (1, K) values in the order of `inputs`.")
        count = _count(num_volumes, generator, latents, covariates)
        features = self.encode(conditions) if features is None else features
        heat = self.config.temperature if temperature is None else temperature
        results = []
        for k in range(count):
            own = generator[k] if isinstance(generator, list) else generator
            noise = latents[k : k + 1] if latents is not None else self._noise(own)
            steer = _Steer(
                self,
                covariates[min(k, len(covariates) - 1)][None].to(self.device),
                None if features is None else features[min(k, len(features) - 1)][None],
                conditioning_scale,
                (control_guidance_start, control_guidance_end),
                num_inference_steps,
                getattr(torch, resolve_precision(precision, self.device)),
            )

            def on_step(i: int, t: Tensor, z: Tensor) -> Tensor | None:
                if callback_on_step_end is None:
                    return None
                replaced = callback_on_step_end(self, i, t, {"latents": z}) or {}
                return replaced.get("latents")

            z = sample(
                steer,
                heat * noise.to(self.device),
                self.scheduler,
                num_inference_steps,
                own,
                on_step,
            )
            results.append(z if output_type == "latent" else self.autoencoder.decode(z))
        volumes: Any = torch.cat(results)
        if output_type == "np":
            volumes = volumes.cpu().numpy()
        return VCMPipelineOutput(volumes=volumes) if return_dict else (volumes,)

    def _noise(self, generator: Generator | None) -> Tensor:
        """Drawn on the generator's device, so that a seed means the same noise everywhere."""
        device = generator.device if generator is not None else torch.device("cpu")
        return torch.randn((1, *self.latent_shape), generator=generator, device=device)

    @torch.inference_mode()
    def encode(self, conditions: Tensor | Sequence[Tensor | None] | None) -> Tensor | None:
        """Conditions, as a call takes them -> features for any number of calls; None for none.

        They depend on neither step nor seed, so a volume's conditions need encoding only once.
        """
        if conditions is None:
            return None
        if self.module is None:
            raise VCMError(
                "The model has no module, so it cannot obey a condition: train one with vcm train, "
                "or sample without a condition."
            )
        listed = [conditions] if isinstance(conditions, Tensor) else conditions
        return self.module.encode([None if c is None else c.to(self.device) for c in listed])


@dataclass
class _Steer:
    """predict(z_t, t) for one volume, as the scheduler wants it; knows when the module acts."""

    pipeline: VCMPipeline
    covariates: Tensor
    features: Tensor | None
    scale: float
    window: tuple[float, float]
    steps: int
    dtype: torch.dtype
    calls: int = 0

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        half = self.dtype != torch.float32
        with torch.autocast(z_t.device.type, self.dtype, enabled=half):
            return self._predict(z_t, t).to(z_t.dtype)

    def _predict(self, z_t: Tensor, t: Tensor) -> Tensor:
        denoiser, module = self.pipeline.denoiser, self.pipeline.module
        t = torch.as_tensor(t, device=z_t.device)[None]
        done = self.calls / self.steps
        self.calls += 1
        if self.features is not None and self.window[0] <= done < self.window[1]:
            raw = module.steer(
                denoiser, z_t, t, self.covariates, self.features, self.scale
            ).prediction
        else:
            raw = denoiser.raw(z_t, t, self.covariates)
        return denoiser.to_model_output(raw, z_t, t)


def _count(
    asked: int | None,
    generator: Generator | list[Generator] | None,
    latents: Tensor | None,
    covariates: Tensor,
) -> int:
    given = {
        "num_volumes": asked,
        "generator": len(generator) if isinstance(generator, list) else None,
        "latents": None if latents is None else len(latents),
        "covariates": len(covariates) if len(covariates) > 1 else None,
    }
    counts = {name: n for name, n in given.items() if n is not None}
    if len(set(counts.values())) > 1:
        raise VCMError(f"The numbers of volumes disagree ({counts}): give one number throughout.")
    return next(iter(counts.values()), 1)


@torch.inference_mode()
def draw_volume(
    pipeline: VCMPipeline,
    features: Tensor | None,
    inputs: Tensor,
    seed: int,
    steps: int,
    on_step: Callable[[], None],
    **options: Any,
) -> NDArray[np.float32]:
    """One volume (X, Y, Z) on the model's grid, 0..1; the noise depends on the seed alone.

    `options` as a call of the pipeline has them.
    """

    def step(*_: Any) -> dict[str, Any]:
        on_step()
        return {}

    result = pipeline(
        features=features,
        covariates=inputs,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=step,
        output_type="np",
        **options,
    )
    return np.asarray(result.volumes[0, 0], dtype=np.float32)


def choose_device(name: str) -> torch.device:
    """auto: a GPU where there is one. Raises VCMError for a device that is not there."""
    torch.set_flush_denormal(True)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise VCMError(
            f"The device '{name}' cannot be used ({str(error).splitlines()[0]}): choose cpu or auto."
        ) from error
    return torch.device(name)
