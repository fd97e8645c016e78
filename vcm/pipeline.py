"""The one object a user holds: frozen model, module, scheduler and covariate ranges, in one folder.

Follows diffusers: from_pretrained, save_pretrained, a call that samples. Takes tensors, or a label map
as file; how it lies in space and how results are written is known to vcm.imaging and vcm.report.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from numpy.typing import NDArray
from torch import Generator, Tensor

from vcm.checksums import record_checksums, verify_checksums
from vcm.diffusion.call import as_seeds, check_rows, check_values, count_volumes, seeded
from vcm.diffusion.sampling import (
    check_schedule,
    check_scheduler,
    flow_shift,
    make_scheduler,
    sample,
)
from vcm.diffusion.steering import SteeredPrediction, acts
from vcm.embedded import INDEX, find_model, unknown_model
from vcm.errors import VCMError
from vcm.files import sha256, synthetic_mark
from vcm.imaging.conditions import CONDITION_CHANNELS
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.outline import inside_map
from vcm.imaging.placing import PlacedCondition, place_label_map, unconditioned
from vcm.imaging.volume import Grid, Volume
from vcm.inputs import (
    InputRequest,
    InputRule,
    ModelInput,
    Outside,
    as_outside,
    network_inputs,
    resolve_inputs,
)
from vcm.nets.frozen_checksum import check_module_fits, record_frozen
from vcm.nets.memory_format import channels_last
from vcm.nets.single_volume import compute_single_volumes_fast
from vcm.precision import resolve_precision
from vcm.report.sampled import VCMPipelineOutput, sampling_record
from vcm.report.synthetic import Halved

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num, Shaped

#: Volumes of more voxels than this are decoded in slabs: whole feature maps would fill a laptop.
LARGE = 2_000_000
#: What `from_pretrained` passes on to the model hub.
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
#: What `sampling` recommends for the module that a model has.
OF_A_MODULE = ("scale", "temperature", "temperature_finer")
StepEnd = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]


class VCMPipeline(DiffusionPipeline):
    """Latent diffusion steered by a Volumetric Conditioning Module (arXiv 2410.21826).

    Args:
        autoencoder: Frozen; what it offers is in vcm.nets.frozen.
        denoiser: Frozen, likewise.
        scheduler: Any diffusers scheduler that takes what the denoiser gives: epsilon over the same
            1000 steps, or a velocity for flow matching.
        module: A control method (vcm.nets.control), or None: the frozen model alone, as `vcm
            pretrain diffusion` leaves it.
        conditions: Names of what the module's encoders read, in their order.
        inputs: Names of what the denoiser is told, in its order; see vcm.inputs.
        covariate_ranges: Least and greatest value seen in training, by covariate, in its unit.
        population: Of the training subjects: "typical_age" [years] and "expected_volumes", see
            vcm.imaging.covariates.expected_volumes.
        temperature: Scale of the initial noise, where a call gives none: below 1 a sample keeps closer
            to what the model expects, as truncation does in other generators (Brock et al. 2019,
            arXiv 1809.11096).
        grid: "shape" and "affine" (voxel -> common space, RAS+ [mm]) of its volumes.
        sampling: What is taken where nothing is said: "scheduler" (by name, see vcm.diffusion.sampling)
            and "steps", by default the one that is saved, and 50; and of this module, "scale", its
            strength, and "temperature", where it acts, by default 1 and `temperature`;
            "temperature_finer", where its volumes are then given half the voxel size, which sharpens
            noise too, by default the same.
        detail: What `vcm upsample` adds to an expected brain, vcm.nets.detail, or None.
        clear_background: Whether a volume sampled under a label map is 0 outside of its `outline`, as
            the scans of the training are.
        super_resolution: What makes half the voxel size of a volume, vcm.nets.super_resolution, for
            label maps of finer voxels than the model has, or None.
    """

    # Outside this chain, as diffusers does with its control networks: module and detail, which work in
    # turns with the denoiser at every step, and super_resolution, which not every volume needs.
    model_cpu_offload_seq = "denoiser->autoencoder"  # type: ignore[assignment]
    _optional_components: ClassVar = ["module", "detail", "super_resolution"]  # type: ignore[misc]
    autoencoder: Any
    denoiser: Any
    scheduler: Any
    module: Any
    detail: Any
    super_resolution: Any
    config: Any
    _callback_tensor_inputs: ClassVar = ["latents"]

    def __init__(
        self,
        autoencoder: Any,
        denoiser: Any,
        scheduler: Any,
        module: Any = None,
        conditions: Any = None,
        inputs: Any = COVARIATES,
        covariate_ranges: Any = None,
        population: Any = None,
        temperature: float = 1.0,
        grid: Any = None,
        sampling: Any = None,
        detail: Any = None,
        clear_background: bool = False,
        super_resolution: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            scheduler=scheduler,
            module=module,
            detail=detail,
            super_resolution=super_resolution,
        )
        compute_single_volumes_fast(autoencoder, denoiser, module, detail, super_resolution)
        # On large maps its convolutions take two thirds of the time then.
        for net in (detail, super_resolution):
            if isinstance(net, torch.nn.Module):
                channels_last(net)
        ranges: Any = {name: list(pair) for name, pair in (covariate_ranges or {}).items()}
        self.register_to_config(
            conditions=list(conditions or []),
            inputs=list(inputs),
            covariate_ranges=ranges,
            population=dict(population or {}),
            temperature=temperature,
            grid=dict(grid or {}),
            sampling=dict(sampling or {}),
            clear_background=clear_background,
        )
        self._check_super_resolution()
        #: How it was loaded, and the checksums of its files; empty for one that was made in memory.
        self.source = ""
        self.file_checksums: dict[str, str] = {}
        #: The scheduler of its folder; `scheduler` is the recommended one, if there is one.
        self.saved_scheduler = scheduler
        self._recommended: Any = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Load a model by name, folder or hub id, with every check.

        Files are compared with the checksums that were saved with them, the module with the frozen
        model that it was trained on. Large models decode in slabs, see enable_tiling.

        Args:
            pretrained_model_name_or_path: Name of an embedded model (brain2mm), a folder, or
                OWNER/NAME on the model hub. Only the last is ever fetched.
            **options: As diffusers has them. torch_dtype applies to denoiser and module; the
                autoencoder stays in float32, which its feature maps need.

        Raises:
            VCMError: There is no such model, a file is missing or damaged, or the module was trained
                on another frozen model.
        """
        dtype = options.pop("torch_dtype", torch.float32)
        hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
        folder = find_model(pretrained_model_name_or_path)
        folder = folder or _fetched(str(pretrained_model_name_or_path), hub)
        checksums = verify_checksums(folder)
        _import_components(folder)
        try:
            pipeline = super().from_pretrained(folder, use_safetensors=True, **options)
        except (ImportError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise VCMError(
                f"The model in {folder} cannot be loaded ({reason}): its files are damaged or belong to "
                "another version; copy the folder again."
            ) from error
        _cast(pipeline.components.values(), torch.float32)
        check_module_fits(pipeline.module, pipeline.autoencoder, pipeline.denoiser)
        _cast((pipeline.denoiser, pipeline.module), dtype)
        if math.prod(pipeline.config.grid.get("shape", ())) > LARGE:
            pipeline.autoencoder.enable_tiling()
        pipeline.source, pipeline.file_checksums = str(pretrained_model_name_or_path), checksums
        recommended = pipeline.recommended_scheduler
        if recommended != "saved" and "scheduler" not in options:
            pipeline.use_scheduler(recommended)
            pipeline._recommended = pipeline.scheduler
        return pipeline

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """As diffusers has it, and the checksums of all files, which loading compares."""
        chosen = self.scheduler
        if chosen is self._recommended:
            self.scheduler = self.saved_scheduler
        try:
            super().save_pretrained(save_directory, *args, **options)
        finally:
            self.scheduler = chosen
        record_checksums(Path(save_directory))

    def with_module(
        self, module: Any, conditions: Sequence[str], temperature: float | None = None
    ) -> VCMPipeline:
        """The same frozen model, steered by another module, which is marked as trained on it.

        Args:
            module: A control method that was trained on this frozen model.
            conditions: Names of what its encoders read, in their order.
            temperature: See the class; None: that of this pipeline.

        Returns:
            A pipeline that shares the frozen networks with this one.

        Raises:
            VCMError: The module's encoders do not read these conditions.
        """
        unknown = [name for name in conditions if name not in CONDITION_CHANNELS]
        if unknown:
            known = ", ".join(CONDITION_CHANNELS)
            raise VCMError(f"The condition '{unknown[0]}' is unknown: choose from {known}.")
        channels = tuple(CONDITION_CHANNELS[name] for name in conditions)
        if channels != tuple(module.condition_channels):
            raise VCMError(
                f"conditions is {list(conditions)}, which have {channels} channels, but the module's "
                f"encoders read {tuple(module.condition_channels)}: name what each of them reads, in "
                "their order."
            )
        names = (
            "inputs", "covariate_ranges", "population", "grid", "sampling", "temperature",
            "clear_background",
        )  # fmt: skip
        settings = {name: self.config[name] for name in names}
        settings["sampling"] = self.sampling_without_module
        if temperature is not None:
            settings["temperature"] = temperature
        recommended = self.scheduler is self._recommended
        scheduler = self.saved_scheduler if recommended else self.scheduler
        made = VCMPipeline(
            self.autoencoder, self.denoiser, scheduler, module, list(conditions), **settings,
            super_resolution=self.super_resolution,
        )  # fmt: skip
        if recommended:
            made.scheduler = made._recommended = self._recommended
        made.record_frozen()
        return made

    def record_frozen(self) -> str:
        """Mark the module, if there is one, as trained on this frozen model; returns its checksum."""
        return record_frozen(self.module, self.autoencoder, self.denoiser)

    def to(self, *args: Any, **options: Any) -> VCMPipeline:
        """As diffusers has it; a type of numbers applies to denoiser and module, see from_pretrained."""
        dtype = options.pop("dtype", next((a for a in args if isinstance(a, torch.dtype)), None))
        others = [a for a in args if not isinstance(a, torch.dtype)]
        if others or options:
            super().to(*others, **options)
        if dtype is not None:
            _cast((self.denoiser, self.module), dtype)
        return self

    @property
    def recommended_scheduler(self) -> str:
        """Name of the scheduler that is taken where nothing is said; "saved": that of the model's folder."""
        return str(self.config.sampling.get("scheduler", "saved"))

    def use_scheduler(self, name: str) -> None:
        """Sample with a scheduler, told what it must know of these latents.

        Args:
            name: Of vcm.diffusion.sampling; "saved": that of the model's folder; "auto": the one that
                the model recommends.

        Raises:
            VCMError: There is none of that name, or it does not fit the model.
        """
        name = self.recommended_scheduler if name == "auto" else name
        if name == "saved":
            self.scheduler = self.saved_scheduler
            return
        check_scheduler(name, self.denoiser.steps_with)
        flow = self.denoiser.steps_with == "flow"
        options = {"shift": flow_shift(self.latent_shape)} if flow else {}
        self.scheduler = make_scheduler(name, **options)

    @property
    def recommended_steps(self) -> int:
        """Denoising steps that are taken where nothing is said."""
        return int(self.config.sampling.get("steps", 50))

    @property
    def sampling_without_module(self) -> dict[str, Any]:
        """`sampling` but for what suits its module, which need not suit another."""
        told = self.config.sampling.items()
        return {name: value for name, value in told if name not in OF_A_MODULE}

    @property
    def recommended_scale(self) -> float:
        """Strength of the module where nothing is said."""
        return float(self.config.sampling.get("scale", 1.0))

    def recommended_temperature(self, steered: bool, finer: bool = False) -> float:
        """Scale of the initial noise where nothing is said.

        Args:
            steered: Whether the module acts.
            finer: Whether the volumes are then given half the voxel size.
        """
        own, told = self.config.temperature, self.config.sampling
        if not steered:
            return float(own)
        usual = told.get("temperature", own)
        return float(told.get("temperature_finer", usual) if finer else usual)

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

    @property
    def latent_factor(self) -> int:
        """Voxels per latent position and axis."""
        return int(self.volume_grid.shape[0] // self.latent_shape[1])

    @torch.inference_mode()
    def __call__(
        self,
        conditions: Any = None,
        covariates: Float[Tensor, "_ K"] | None = None,
        num_volumes: int | None = None,
        num_inference_steps: int | None = None,
        generator: Generator | list[Generator] | None = None,
        latents: Float[Tensor, "_ C x y z"] | None = None,
        temperature: float | None = None,
        conditioning_scale: float | None = None,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
        features: Float[Tensor, "_ F u v w"] | None = None,
        inside: Bool[Tensor, "_ 1 X Y Z"] | None = None,
        precision: str = "float32",
        callback_on_step_end: StepEnd | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        *,
        seed: Any = None,  # int, or a sequence of them, of Python or numpy
        age: float | None = None,
        sex: str | None = None,
        ventricular_volume: float | None = None,
        brain_volume: float | None = None,
        contrast: str | None = None,
        labels: str = "auto",
        outside: str = "refuse",
    ) -> Any:  # VCMPipelineOutput; a tuple where diffusers gives one
        """Sample volumes that obey the conditions.

        Volumes are sampled one after the other: sample k is the same, bit for bit, whichever others
        are asked for, and memory does not grow with their number.

        Args:
            conditions: A label map: path of a NIfTI file, or a Volume. Or a tensor (1 or B, C_k, X,
                Y, Z) per condition on the model's grid, None where absent. None for all: not steered.
            covariates: (1 or B, K) what the denoiser is told, in the order of `inputs`; for brain2mm
                and BrainLDM the four covariates in 0..1. None: from age, sex and so on.
            num_volumes: B; by default what seeds, generators, latents or covariates say.
            num_inference_steps: Denoising steps; None: as the model recommends.
            generator: One per volume, or one for all in turn.
            latents: (B, C, x, y, z) unit noise to start from, instead of drawing it.
            temperature: Scale of that noise, 0 to 2; None: the model's own.
            conditioning_scale: Strength of the module; 0 leaves the frozen model alone, above 1 goes
                beyond what was learned; None: as the model recommends.
            control_guidance_start: Fraction of the steps, 0..1, before which the module is silent.
            control_guidance_end: Fraction of the steps from which on it is silent again.
            features: What `encode` made of the conditions, instead of them.
            inside: (1 or B, 1, X, Y, Z) outside of which the volumes are 0. None: `outline` of the
                conditions. A module that is silent in all steps (conditioning_scale 0) leaves the volume as it is.
            precision: float32 | bfloat16 | auto: autocast of the denoising; the rest stays in float32.
            callback_on_step_end: (pipeline, i, t, {"latents"}) -> dict, called for each volume.
            output_type: pt | np | latent.
            return_dict: False: a tuple.
            seed: One per volume, or the first of `num_volumes` that follow each other.
            age: In years.
            sex: F or M.
            ventricular_volume: In mL; by default that of the label map.
            brain_volume: In mL; by default that of the label map.
            contrast: By name, for models that make several.
            labels: Vocabulary of the label map: auto, a name, or a YAML table.
            outside: What becomes of covariates outside the trained range: refuse | keep | clamp.

        Returns:
            The volumes, which `save` writes as the command does.

        Raises:
            VCMError: A value that cannot be used, or numbers of volumes that disagree.
        """
        steps = self.recommended_steps if num_inference_steps is None else num_inference_steps
        scale = self.recommended_scale if conditioning_scale is None else conditioning_scale
        window = (control_guidance_start, control_guidance_end)
        check_values(output_type, steps, self.denoiser.timesteps, temperature, scale, window)
        act = acts(scale, window, steps)
        steered = act and (conditions is not None or features is not None)
        device = self._execution_device
        _check_dtype(self.denoiser, device)
        precision = resolve_precision(precision, device)
        check_schedule(self.scheduler, self.denoiser)
        path = Path(conditions) if isinstance(conditions, str | Path) else None
        placed = self._place(conditions, labels)
        finer = placed is not None and self.makes_finer(placed)
        heat = self.recommended_temperature(steered, finer) if temperature is None else temperature
        listed = self._listed(conditions, placed)
        request = InputRequest(age, sex, ventricular_volume, brain_volume, contrast)
        given, covariates = self._told(covariates, request, placed, as_outside(outside))
        check_rows(covariates, len(self.config.inputs), "contrast" not in self.config.inputs)
        if latents is not None and tuple(latents.shape[1:]) != self.latent_shape:
            raise VCMError(
                f"latents has shape {tuple(latents.shape)}: give (B, C, x, y, z) with "
                f"{self.latent_shape} in each."
            )
        seed = as_seeds(seed)
        generator = list(generator) if isinstance(generator, tuple) else generator
        count = count_volumes(num_volumes, seed, generator, latents, covariates, listed, features)
        seeds, generator = seeded(seed, generator, latents, count)
        features = self.encode(listed) if features is None else features
        inside = self.outline(listed) if inside is None else inside
        self._check_features(features)
        results = []
        with self.progress_bar(total=count * steps) as bar:
            for k in range(count):
                own = generator[k] if isinstance(generator, list) else generator
                noise = latents[k : k + 1] if latents is not None else self._noise(own)
                predict = SteeredPrediction(
                    self.denoiser,
                    self.module,
                    _row(covariates, k).to(device),
                    None if features is None else _row(features, k),
                    scale,
                    window,
                    steps,
                    getattr(torch, precision),
                )
                on_step = self._on_step(predict, bar.update, callback_on_step_end)
                z = sample(predict, heat * noise.to(device), self.scheduler, steps, own, on_step)
                if output_type != "latent":
                    z = self.autoencoder.decode(z)
                    if inside is not None and act:
                        z = z * _row(inside, k).to(z)
                results.append(z)
        self.maybe_free_model_hooks()
        volumes: Any = torch.cat(results)
        if output_type == "np":
            volumes = volumes.cpu().numpy()
        if not return_dict:
            return (volumes,)
        if output_type == "latent" or not self.config.grid:
            return VCMPipelineOutput(volumes, seeds)
        placed = placed or unconditioned(self.volume_grid)
        record = {
            **synthetic_mark(),
            "Command": None,
            "Condition": path.name if path else None,
            "ConditionSHA256": _checksum(conditions),
            **sampling_record(
                self, placed, given, act and features is not None, steps, precision, heat,
                scale, window, finer,
            ),
            "BackgroundCleared": act and inside is not None,
        }  # fmt: skip
        if not given:  # told as numbers, which no name stands for
            record["Covariates"] = covariates.expand(count, -1).tolist()
        return VCMPipelineOutput(volumes, seeds, placed, record, self.halved if finer else None)

    def _place(self, conditions: Any, labels: str) -> PlacedCondition | None:
        """A label map on the model's grid; None for tensors and for none."""
        if not isinstance(conditions, str | Path | Volume):
            return None
        reads = list(self.config.conditions)
        if self.module is not None and not {"classes", "ventricles"} & set(reads):
            raise VCMError(
                f"The module expects {', '.join(reads)}, but a label map is given: choose another model."
            )
        given = conditions if isinstance(conditions, Volume) else Path(conditions)
        return place_label_map(given, labels, self.volume_grid)

    def _listed(
        self, conditions: Any, placed: PlacedCondition | None
    ) -> Sequence[Shaped[Tensor, "_ _ X Y Z"] | None] | None:
        """The conditions as tensors, one for each that the module reads."""
        if placed is None:
            listed = [conditions] if isinstance(conditions, Tensor) else conditions
            if listed is not None and not all(c is None or isinstance(c, Tensor) for c in listed):
                kinds = ", ".join(sorted({type(c).__name__ for c in listed}))
                raise VCMError(
                    f"conditions hold {kinds}: give the path of one label map, a vcm.imaging.volume.Volume, or a tensor "
                    "(1 or B, C_k, X, Y, Z) for each condition."
                )
            return listed
        channels = placed.conditions(self.config.conditions)
        return [None if c is None else torch.from_numpy(c)[None] for c in channels]

    def _told(
        self,
        covariates: Float[Tensor, "_ K"] | None,
        request: InputRequest,
        placed: PlacedCondition | None,
        outside: Outside,
    ) -> tuple[dict[str, ModelInput], Float[Tensor, "_ K"]]:
        """What the denoiser is told, by name with its origin where it was asked for by name, and as numbers."""
        if covariates is None:
            measured = None if placed is None else placed.volumes
            given = resolve_inputs(self.input_rule, request, measured, outside)
            return given, network_inputs(self.input_rule, given)
        if request != InputRequest():
            raise VCMError("covariates are given, and age, sex and so on too: give one of them.")
        return {}, covariates

    def _on_step(
        self,
        predict: SteeredPrediction,
        advance: Callable[[], Any],
        callback: StepEnd | None,
    ) -> Callable[[int, Num[Tensor, ""], Float[Tensor, "1 C x y z"]], Tensor | None]:
        """What follows each prediction of a volume: the step is counted, and the caller's callback called."""

        def on_step(
            i: int, t: Num[Tensor, ""], z: Float[Tensor, "1 C x y z"]
        ) -> Float[Tensor, "1 C x y z"] | None:
            # A scheduler of second order asks twice in all steps but the last; PNDM asks oftener in the first.
            asked, order = len(self.scheduler.timesteps), getattr(self.scheduler, "order", 1)
            even = asked == order * (predict.steps - 1) + 1
            before = predict.step
            predict.step = (i + 1) // order if even else (i + 1) * predict.steps // asked
            if predict.step > before or i + 1 == asked:
                advance()
            if callback is None:
                return None
            replaced = callback(self, i, t, {"latents": z}) or {}
            return replaced.get("latents")

        return on_step

    def _noise(self, generator: Generator | None) -> Float[Tensor, "1 C x y z"]:
        """Drawn on the generator's device, so that a seed means the same noise everywhere."""
        device = generator.device if generator is not None else torch.device("cpu")
        return torch.randn((1, *self.latent_shape), generator=generator, device=device)

    def _check_features(self, features: Float[Tensor, "_ F u v w"] | None) -> None:
        if features is None:
            return
        # A module that reaches into a folded U-Net has features on that U-Net's grid, not the latent's.
        fold = self.module.downsampling // self.autoencoder.factor
        needed = tuple(n // fold for n in self.latent_shape[1:])
        if tuple(features.shape[2:]) != needed:
            raise VCMError(
                f"The conditions lead to features of {tuple(features.shape[2:])} positions, but this "
                f"model needs {needed}: give conditions on its grid of "
                f"{tuple(self.config.grid.get('shape', ()))} voxels."
            )

    def outline(
        self, conditions: Sequence[Shaped[Tensor, "_ _ X Y Z"] | None] | None
    ) -> Bool[Tensor, "_ 1 X Y Z"] | None:
        """Where the label map among the conditions has brain; None without one.

        None too for a model whose training scans do not end where their maps do (`clear_background`).

        Args:
            conditions: As the call takes them: (1 or B, C_k, X, Y, Z) each, None where absent.
        """
        if conditions is None or not self.clears_background:
            return None
        classes = conditions[self.config.conditions.index("classes")]
        return None if classes is None else inside_map(classes)

    @property
    def clears_background(self) -> bool:
        """Whether volumes under a label map are 0 where the map is background."""
        return bool(self.config.clear_background) and "classes" in self.config.conditions

    def _check_super_resolution(self) -> None:
        """Refuse with VCMError a network that learned to make voxels of another size than half of the model's."""
        net, grid = self.super_resolution, self.config.grid
        made = None if net is None else net.config.get("spacing")
        if made and grid and not math.isclose(2 * made, self.volume_grid.spacing[0], rel_tol=0.05):
            raise VCMError(
                f"super_resolution makes voxels of {made:g} mm, and half of this model's are "
                f"{self.volume_grid.spacing[0] / 2:g} mm: train one on scans of that voxel size."
            )

    def makes_finer(self, placed: PlacedCondition) -> bool:
        """Whether volumes under a condition can be given half the voxel size, and its voxels ask for it."""
        return self.super_resolution is not None and placed.placement.is_finer

    @property
    def halved(self) -> Halved | None:
        """Volume -> the same at half the voxel size, of a model that can; see `halve_voxels`."""
        return None if self.super_resolution is None else self.halve_voxels

    @torch.inference_mode()
    def halve_voxels(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """A volume with the detail that scans of half the model's voxel size have.

        Args:
            image: (X, Y, Z) on the model's grid, 0..1.

        Returns:
            (2X, 2Y, 2Z) of the same field of view, 0..1; 0 where the volume is 0 all around.

        Raises:
            VCMError: The model has no network for it.
        """
        if self.super_resolution is None:
            raise VCMError(
                "The model has no network that halves its voxels (super_resolution): take its volumes as "
                "they are."
            )
        net = self.super_resolution
        read = torch.from_numpy(image)[None, None].to(net.device, net.dtype)
        inside = torch.nn.functional.max_pool3d((read > 0).to(read), 3, 1, 1)
        made = net(read).clamp(0, 1) * torch.nn.functional.interpolate(inside, scale_factor=2)
        return np.asarray(made[0, 0].float().cpu(), dtype=np.float32)

    @torch.inference_mode()
    def encode(
        self, conditions: Tensor | Sequence[Tensor | None] | None
    ) -> Float[Tensor, "_ F x y z"] | None:
        """Conditions -> features for any number of calls.

        They depend on neither step nor seed, so a volume's conditions need encoding only once.

        Args:
            conditions: (1 or B, C_k, X, Y, Z) per condition, None where absent; one condition may be
                given without a list. None: no conditions.

        Returns:
            (1 or B, F, x, y, z); None for none.

        Raises:
            VCMError: There is no module, or a condition has another shape than it reads.
        """
        if conditions is None:
            return None
        if self.module is None:
            raise VCMError(
                "The model has no module, so it cannot obey a condition: train one with vcm train, "
                "or sample without a condition."
            )
        listed = [conditions] if isinstance(conditions, Tensor) else conditions
        device = self._execution_device
        _check_dtype(self.module, device)
        features: Tensor = self.module.encode([None if c is None else c.to(device) for c in listed])
        return features


def _row(values: Shaped[Tensor, "_ ..."], k: int) -> Shaped[Tensor, "1 ..."]:
    """That of volume k, where one row may serve all volumes."""
    return values[min(k, len(values) - 1)][None]


def _checksum(conditions: Any) -> str | None:
    """SHA-256 of a label map's file, of the voxels of one in memory, or of tensors; None for none."""
    if isinstance(conditions, Volume):
        digest = hashlib.sha256(np.ascontiguousarray(conditions.affine).tobytes())
        digest.update(np.ascontiguousarray(conditions.data).tobytes())
        return digest.hexdigest()
    if isinstance(conditions, str | Path):
        return sha256(Path(conditions))
    if conditions is None:
        return None
    digest = hashlib.sha256()
    for one in [conditions] if isinstance(conditions, Tensor) else conditions:
        values = np.empty(0) if one is None else one.detach().float().cpu().numpy()
        digest.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


_COMPONENTS = ("autoencoder", "denoiser", "scheduler", "module", "detail", "super_resolution")


def _import_components(folder: Path) -> None:
    """Import the modules of this package that the index names, and refuse all but these and diffusers.

    diffusers loads components only from modules that are imported already.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        # A list of two may also be a setting, such as conditions: [classes, partial].
        found = {name: index.get(name) for name in _COMPONENTS}
        entries = {name: e for name, e in found.items() if isinstance(e, list) and len(e) == 2}
    except (ValueError, AttributeError) as error:
        raise VCMError(
            f"{folder / INDEX} cannot be read ({error}): its file is damaged; copy the folder again."
        ) from error
    for name, (library, kind) in entries.items():
        if not isinstance(library, str) or library == "diffusers":
            continue
        if not library.startswith("vcm.nets."):
            raise VCMError(
                f"The {name} in {folder} is a {library}.{kind}, but models of vcm hold classes of vcm "
                "and diffusers alone: give a folder written by vcm."
            )
        try:
            import_module(library)
        except ImportError as error:
            raise VCMError(
                f"The model in {folder} cannot be loaded ({error}): it belongs to another version of vcm."
            ) from error


def _fetched(model: str, options: dict[str, Any]) -> Path:
    """Folder of a model of the hub. Raises VCMError for what is no hub id, and if it cannot be fetched."""
    owner, _, name = model.partition("/")
    if not owner or not name or "/" in name or Path(owner).exists():
        raise unknown_model(model)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            model,
            allow_patterns=["*.json", "*.safetensors", "*/*.json", "*/*.safetensors"],
            **options,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise unknown_model(model, f", and cannot be fetched from the hub ({reason})") from error
    if not (Path(folder) / INDEX).is_file():
        raise unknown_model(model, ", and on the hub it has none either")
    return Path(folder)


def _check_dtype(network: Any, device: torch.device) -> None:
    """Refuse with VCMError a network of a type of numbers that torch does not pool on a CPU."""
    if device.type == "cpu" and network.dtype != torch.float32:
        raise VCMError(
            f"The networks are in {network.dtype}, which not all their layers have on a CPU: load them "
            "without torch_dtype, and call with precision='bfloat16'."
        )


def _cast(parts: Any, dtype: torch.dtype) -> None:
    """Networks to one type of numbers (diffusers' own way warns where nothing is wrong)."""
    for part in parts:
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, dtype)


@torch.inference_mode()
def draw_volume(
    pipeline: VCMPipeline,
    features: Float[Tensor, "1 F u v w"] | None,
    inputs: Float[Tensor, "1 K"],
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
