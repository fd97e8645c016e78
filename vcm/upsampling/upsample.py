"""Upsample: thick slices become an isotropic volume in the scan's own space, with its uncertainty.

Read how the scan was cut, align its brain, steer the frozen model by the thick slices, ask which brain
it expects and sample a few, bring each back to the scan's space, and project it onto what the slices
measured: degraded again, the result gives the scan. A small network adds the detail that the latents
lack and says how far off it expects to be. Outside the brain the scan is interpolated. Several scans
of one head are combined into one volume consistent with all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from vcm.device import choose_device
from vcm.embedded import model_folder, network_folder
from vcm.errors import VCMError, VCMWarning
from vcm.files import check_output, fingerprint, refuse_to_replace, sha256, versions
from vcm.imaging.acquisition import isotropic_about
from vcm.imaging.bids import stem
from vcm.imaging.sidecar import told_thickness
from vcm.imaging.volume import Volume, read_volume
from vcm.inputs import InputRequest, resolve_inputs
from vcm.nets.detail import DetailNet
from vcm.pipeline import VCMPipeline
from vcm.precision import resolve_precision
from vcm.report.folder import write_report
from vcm.upsampling.checks import (
    check_settings,
    how_many_samples,
    refuse_guide,
    refuse_mismatched,
    refuse_output,
    refuse_several,
    refuse_whole_head,
)
from vcm.upsampling.configuration import EXAMPLE, Upsampling
from vcm.upsampling.detail.consistency import Projection
from vcm.upsampling.detail.head_detail import NONE, load_detail
from vcm.upsampling.detail.prior import refuse_unfit
from vcm.upsampling.example import example_scan
from vcm.upsampling.guide import follow
from vcm.upsampling.results.other_grid import on_grid_of, refuse_grid, warn_of_cut
from vcm.upsampling.results.page import upsampling_page
from vcm.upsampling.results.translate import check_contrast, load_translator, refuse_t1w, translate
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.results.writing import describe_result, file_names, write_result
from vcm.upsampling.scans.placed_guide import place_guide
from vcm.upsampling.scans.placement import bring_together, distance
from vcm.upsampling.scans.profile import ProfileChoice
from vcm.upsampling.scans.same_scan import refuse_same_scan
from vcm.upsampling.scans.thick_scan import ThickScan, to_thick_scan
from vcm.upsampling.with_model import Drawing, OnStep, upsample_with_model
from vcm.upsampling.without_model import (
    in_doubt,
    in_words,
    refuse_other_contrasts,
    upsample_without_model,
)
from vcm.weights.load import load_pipeline

#: Called with a sentence that a user should read, and that is no warning.
OnNote = Callable[[str], None]
#: Called with a scan that was read and found fit, before anything is computed; raises VCMError to refuse it.
OnScan = Callable[[ThickScan], None]
#: Bytes per voxel of a compressed volume, at most; for the check that the disk has room.
BYTES = 4
#: Keys of the configuration that `upsample` takes too.
_SETTINGS = (
    "spacing", "in_plane", "slice_axis", "slice_thickness", "profile", "allow_extrapolation",
    "samples", "steps", "seed", "consistency", "noise", "detail_noise", "whole_head", "mirrors",
    "precision",
)  # fmt: skip
#: Those that can be checked without a scan.
_CHECKED = (
    "profile", "slice_thickness", "samples", "steps", "seed", "noise", "detail_noise", "precision",
)  # fmt: skip
#: Keys that the sidecar does not repeat among the settings.
_NOT_RECORDED = ("scans", "masks", "like", "guide", "out", "overwrite")


def upsample_files(
    config: Upsampling,
    command: Sequence[str] = (),
    on_step: OnStep = lambda done, total: None,
    on_note: OnNote = lambda sentence: None,
) -> list[Path]:
    """Upsample scans in files; write the result, its uncertainty, sidecar, picture and page.

    Args:
        config: What the user chose.
        command: What the sidecar gives as the command that made it.
        on_step: Called with the denoising steps that are done, and how many there are.
        on_note: Called with what was found in each scan.

    Returns:
        Paths of what is written; the first is the result.

    Raises:
        VCMError: Something cannot be used. Nothing is written then.
    """
    # Check all that can be checked before the first step of work.
    paths, masks, out = config.scans, config.masks, config.out
    settings = {name: getattr(config, name) for name in _SETTINGS}
    refuse_mismatched(paths, masks)
    if config.in_plane and config.like:
        raise VCMError(
            "in_plane keeps the scan's own voxels and like takes those of another scan: choose one of the two."
        )
    check_output(out)
    pipeline = load_pipeline(config.model)
    refuse_unfit(pipeline, config.model)
    samples = how_many_samples(config.samples, pipeline, config.consistency)
    settings["samples"] = samples
    refuse_output(config.output, samples, config.whole_head)
    check_settings(**{name: settings[name] for name in _CHECKED})
    check_contrast(config.to)
    refuse_guide(config)
    refuse_several(len(paths), config.consistency)
    refuse_whole_head(config.whole_head, len(paths), config.detail != NONE, config.consistency)
    like, guide = (read_volume(p) if p else None for p in (config.like, config.guide))
    device = choose_device(config.device)
    detail = load_detail(config.detail)
    translator = load_translator(config.translator) if config.to else None

    # Load.
    if paths == [EXAMPLE] and not EXAMPLE.exists():
        paths = [example_scan(out)]
    images, brains = ([read_volume(path) for path in given] for given in (paths, masks))
    sources = {
        "SourcesSHA256": [sha256(path) for path in paths],
        "MasksSHA256": [sha256(path) for path in masks],
        "GuideSHA256": sha256(config.guide) if config.guide else None,
    }
    given = [*paths, *masks, *(p for p in (config.like, config.guide) if p)]
    names = file_names(paths[0].name, samples, config.seed, config.output, config.to)
    written = [out / name for name in names.values()]
    sidecar = out / names["sidecar"]
    refuse_to_replace(written, given, sidecar, sources, config.overwrite)
    check_output(out, BYTES * _voxels(images[0], config, like) * len(names))

    if config.slice_thickness is None and config.profile != "auto":
        settings["slice_thickness"] = _told_thicknesses(paths, images, on_note)

    # Compute.
    about = InputRequest(age=config.age, sex=config.sex)
    settings["precision"] = resolve_precision(config.precision, device)
    pipeline.to(device)
    detail = None if detail is None else detail.to(device)
    result = upsample(
        images, pipeline, masks=brains, about=about, like=like, guide=guide, detail=detail, on_step=on_step,
        on_scan=lambda scan: _meet(scan, config, on_note),
        **(settings | {"samples": config.samples}),
    )  # fmt: skip
    translated = None if translator is None else translate(result, translator.to(device))
    for other in result.others:
        on_note(
            f"{other.volume.source}: brought to {result.scan.volume.source}, by {distance(other):.1f} mm on average."
        )

    # Write. Another run may have finished meanwhile.
    refuse_to_replace(written, given, sidecar, sources, config.overwrite)
    chosen = asdict(config) | settings
    record = {
        **describe_result(result, names),
        "Command": list(command),
        "Sources": [path.name for path in paths],
        **sources,
        "Like": config.like.name if config.like else None,
        "LikeSHA256": sha256(config.like) if config.like else None,
        "Output": config.output,
        "Settings": {k: v for k, v in chosen.items() if k not in _NOT_RECORDED},
        "Model": config.model,
        "ModelSHA256": fingerprint(model_folder(config.model)),
        "DetailSHA256": None if detail is None else fingerprint(network_folder(config.detail)),
        "TranslatorSHA256": None
        if translator is None
        else fingerprint(network_folder(config.translator)),
        "Device": str(device),
        "Versions": versions(),
    }
    files = write_result(result, out, names, record, translated, given)
    name, picture = stem(paths[0]), out / names["picture"]
    write_report(out, lambda: upsampling_page(result, name, picture, record, translated))
    return files


def _meet(scan: ThickScan, config: Upsampling, on_note: OnNote) -> None:
    """Say what was found in a scan. Raises VCMError where what the user wants cannot be made of it."""
    if config.to is not None:
        refuse_t1w(scan)
    if config.output == "sample" and not scan.contrast.is_t1w:
        raise VCMError(
            f"output is sample, but {scan.volume.source} is {scan.contrast.name} and the model draws samples "
            "of T1w scans only: choose output mean."
        )
    if scan.width is not None:
        on_note(scan.width_in_words())


def upsample(
    scans: Volume | Sequence[Volume],
    pipeline: VCMPipeline,
    *,
    masks: Sequence[Volume] = (),
    spacing: float = 1.0,
    in_plane: bool = False,
    like: Volume | None = None,
    guide: Volume | None = None,
    slice_axis: str | None = None,
    slice_thickness: float | Sequence[float | None] | None = None,
    profile: str = "gaussian",
    about: InputRequest | None = None,
    allow_extrapolation: bool = False,
    samples: int | None = None,
    steps: int = 10,
    seed: int = 0,
    consistency: bool = True,
    noise: float = 0.1,
    detail_noise: float = 0.5,
    mirrors: bool = True,
    detail: DetailNet | None = None,
    whole_head: bool = False,
    precision: str = "auto",
    on_step: OnStep = lambda done, total: None,
    on_scan: OnScan = lambda scan: None,
) -> Upsampled:
    """Upsample scans in memory, on the device of the pipeline.

    Args:
        scans: Thick slices of one head and contrast, in any intensities. The result lies in the space
            of the first and has its intensities; the others are registered to it, see
            `vcm.upsampling.scans.placement`. Where they are not T1w no model takes part: they are
            interpolated and projected onto the slices, and a VCMWarning says so.
        pipeline: A model whose module reads thick slices, such as `load_pipeline("brain1mm")`.
        masks: Brain masks on the voxels of the scans, one per scan; none: the brains are found, with
            the skull or without.
        spacing: Voxel size of the result [mm].
        in_plane: Keep the first scan's own voxels in plane; `spacing` holds across the slices alone.
        like: In the same world as the first scan: the result lies on its voxels, and `spacing` is that of
            the grid where it is made.
        guide: A scan of the same head in another contrast, with finer voxels across the slices: its edges
            sharpen the result. Samples have none of it.
        slice_axis: axial, coronal or sagittal; None: the axis of the largest voxel size.
        slice_thickness: [mm], of all scans or one for each; None: the spacing between slices.
        profile: Sensitivity of a slice across its thickness: gaussian, boxcar, or auto, a Gaussian whose width
            is found in each scan.
        about: What is known of the subject; None: nothing.
        allow_extrapolation: Accept ages and volumes outside the range of the training subjects.
        samples: Number of samples beside the expected brain, from 0; None: 1 where a detail network states
            the uncertainty, else 4.
        steps: Denoising steps of each sample, from 1.
        seed: Of the first sample, from 0; the others count up from it.
        consistency: Project every image onto the measured slices. Without, no network adds detail, and one scan is
            taken.
        noise: Assumed noise of a slice relative to the error of the model, above 0.
        detail_noise: The same relative to the error of the result after the detail network.
        mirrors: Average the detail network over two mirror images of the brain.
        detail: A network for any contrast, such as `load_detail("heads1mm")`: it adds the detail of scans
            that are not T1w; None: they are interpolated.
        whole_head: Let it add the detail outside the brain of a T1w scan too, which is interpolated
            otherwise.
        precision: Of the denoising: float32, bfloat16, or auto, bfloat16 where the hardware computes it.
        on_step: Called with the denoising steps that are done, and how many there are.
        on_scan: Called with each scan as it was read, before anything is computed; may refuse it by a
            VCMError.

    Returns:
        The result. Its uncertainty is what the detail network expects of its own error, where the
        model has such a network; else the spread of the samples, which tells how
        they differ and not how far off they all are. Where slices are lost it is at least the error of
        interpolation over such a gap.

    Raises:
        VCMError: A scan or a setting cannot be used.
    """
    refuse_unfit(pipeline)
    images = [scans] if isinstance(scans, Volume) else list(scans)
    chosen_samples = samples
    samples = how_many_samples(samples, pipeline, consistency)
    thick = _of_each(slice_thickness, len(images))
    for one in thick:
        check_settings(profile, one, samples, steps, seed, noise, detail_noise, precision)
    precision = resolve_precision(precision, pipeline.device)
    brains: list[Volume | None] = [*masks] if masks else [None] * len(images)
    refuse_mismatched(images, masks)
    refuse_several(len(images), consistency)
    refuse_whole_head(whole_head, len(images), detail is not None, consistency)
    refuse_same_scan(images)
    kind = cast(ProfileChoice, profile)
    scan, *others = [
        to_thick_scan(
            image, pipeline.volume_grid, spacing, slice_axis, one, kind, mask, in_plane
        )
        for image, mask, one in zip(images, brains, thick, strict=True)
    ]  # fmt: skip

    refuse_other_contrasts([scan, *others])
    for met in (scan, *others):
        on_scan(met)
    if scan.contrast.is_in_doubt:
        warnings.warn(in_doubt(scan), VCMWarning, stacklevel=2)
    others = bring_together(scan, others)
    if like is not None:
        refuse_grid(like, scan)
        warn_of_cut(like, scan)
    led_by = None if guide is None else place_guide(guide, scan)
    projection = Projection(consistency, noise, detail_noise, mirrors)
    if scan.contrast.is_t1w:
        told = resolve_inputs(
            pipeline.input_rule,
            about or InputRequest(),
            outside="keep" if allow_extrapolation else "refuse",
        )
        drawing = Drawing(samples, steps, seed, precision)
        head = detail if whole_head and scan.shows_more_than_brain else None
        made = upsample_with_model(scan, others, pipeline, told, projection, drawing, head, on_step)
    else:
        idle = _chosen_for_model(chosen_samples, steps, seed, about or InputRequest())
        said = in_words(scan, detail is not None, consistency, idle)
        warnings.warn(said, VCMWarning, stacklevel=2)
        made = upsample_without_model(scan, others, detail, projection)
    if led_by is not None:
        made = follow(made, led_by, detail, projection)
    if like is not None:
        made = on_grid_of(made, like, detail_noise if consistency else None)
    return made


def _told_thicknesses(
    paths: Sequence[Path], images: Sequence[Volume], on_note: OnNote
) -> list[float | None]:
    """Thickness [mm] of each scan's slices by the file beside it, said; None where it does not tell."""
    told = [told_thickness(p, max(i.grid.spacing)) for p, i in zip(paths, images, strict=True)]
    for path, thickness in zip(paths, told, strict=True):
        if thickness is not None:
            on_note(f"{path.name}: slices of {thickness:g} mm, by the JSON file beside it.")
    return told


def _chosen_for_model(samples: int | None, steps: int, seed: int, about: InputRequest) -> list[str]:
    """What was chosen of the frozen model other than its defaults, as name=value."""
    usual = Upsampling()
    chosen = {
        "samples": samples or usual.samples, "steps": steps, "seed": seed, "age": about.age, "sex": about.sex,
    }  # fmt: skip
    return [f"{name}={v}" for name, v in chosen.items() if v != getattr(usual, name)]


def _of_each(
    thickness: float | Sequence[float | None] | None, count: int
) -> Sequence[float | None]:
    """One thickness for each of so many scans."""
    return thickness if isinstance(thickness, Sequence) else [thickness] * count


def _voxels(scan: Volume, config: Upsampling, like: Volume | None) -> int:
    """Of each volume that is written, about."""
    if like is not None:
        return like.data.size
    if config.spacing <= 0:
        return 0
    fine = math.prod(isotropic_about(scan.grid, config.spacing).shape)
    return max(fine, scan.data.size) if config.in_plane else fine
