"""Simulate: an isotropic scan becomes the thick slices that a scanner would have made of it.

So that `vcm upsample` can be tried where the truth is known; the benchmarks cut their scans by it too.
Knows files and the scan's background; what a slice is, vcm.imaging.degradation knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.files import check_output, refuse_to_replace, sha256, versions, write_set
from vcm.imaging.acquisition import Acquisition, ProfileKind
from vcm.imaging.background import ROUNDING, find_background
from vcm.imaging.bids import ENDINGS, stem
from vcm.imaging.brain import refuse_unfit
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.upsampling.configuration import Simulation

#: Percentile of what a scan shows that noise is a share of.
BRIGHT = 99.5
#: Noise and unevenness above this share hide every brain.
MOST = 0.5


def simulate_slices(
    volume: Volume,
    axis: str,
    spacing: float,
    thickness: float | None = None,
    profile: ProfileKind = "gaussian",
    noise: float = 0.0,
    uneven: float = 0.0,
    seed: int = 0,
) -> tuple[Volume, Acquisition]:
    """Cut a scan into thick slices; see `simulate_thick`.

    On a constant background a voxel shows something where at least half of its slice does, as of a scan whose
    skull was taken off after it was made; elsewhere it holds the background's value.

    Args:
        volume: (Nearly) isotropic, of any contrast, with its skull or without.
        axis: axial, coronal or sagittal.
        spacing: Between the centres of slices [mm].
        thickness: Of a slice [mm]; None: the spacing. Less leaves a gap, more an overlap.
        profile: gaussian or boxcar.
        noise: Standard deviation as a share of the intensity between the background and the 99.5th
            percentile of what is shown, 0 to 0.5; clipped at the least value, as magnitudes are.
        uneven: Standard deviation of the gain from slice to slice, as a share, 0 to 0.5.
        seed: Of noise and gains.

    Returns:
        The thick scan, and how it was cut.

    Raises:
        VCMError: The volume cannot be cut so.
    """
    for name, share in (("noise", noise), ("uneven", uneven)):
        if not 0 <= share <= MOST:
            raise VCMError(f"{name} is {share:g}: choose a share from 0 to {MOST:g}.")
    nothing = find_background(volume.data)
    least = float(np.median(volume.data[nothing])) if nothing.any() else float(volume.data.min())
    above = volume.with_data((volume.data - np.float32(least)).astype(np.float32))
    thick, acquisition = simulate_thick(above, axis, spacing, thickness, profile)
    random = np.random.default_rng(seed)
    data = np.moveaxis(thick.data.astype(np.float64), acquisition.axis, 0)
    data *= np.exp(uneven * random.standard_normal(len(data)))[:, None, None]
    if noise:
        bright = float(np.percentile(above.data[~nothing], BRIGHT))
        data = np.maximum(data + noise * bright * random.standard_normal(data.shape), 0)
    values = np.moveaxis(data, 0, acquisition.axis) + least
    if nothing.any():
        shown, _ = simulate_thick(
            volume.with_data((~nothing).astype(np.float32)), axis, spacing, thickness, profile
        )
        values = np.where(shown.data > 0.5, _off(values, least), least)
    return thick.with_data(values.astype(np.float32)), acquisition


def simulate_file(config: Simulation, command: Sequence[str] = ()) -> Path:
    """Write the thick scan and a sidecar with the slices in words of BIDS.

    Args:
        config: What the user chose.
        command: What the sidecar gives as the command that made it.

    Returns:
        Path of the thick scan.

    Raises:
        VCMError: Something cannot be used. Nothing is written then.
    """
    scan, out = config.scan, config.out
    if scan is None or out is None:
        raise VCMError(
            "No scan or no result is given: write SCAN --out sub-01_acq-thick_T1w.nii.gz."
        )
    if not out.name.endswith(ENDINGS):
        raise VCMError(f"{out} is no name of a scan: give one that ends in .nii or .nii.gz.")
    if config.gap and config.slice_thickness is not None:
        raise VCMError(
            "gap and slice_thickness are both given: give one, the other follows from it."
        )
    if config.gap >= config.spacing:
        raise VCMError(
            f"gap is {config.gap:g} mm and spacing {config.spacing:g} mm, so nothing is left of a slice: choose a gap below "
            "the spacing, which is from centre to centre.",
            argument="gap",
        )
    check_output(out.parent)
    sidecar = out.with_name(f"{stem(out)}.json")
    volume = read_volume(scan)
    refuse_unfit(volume, ~find_background(volume.data))
    thickness = config.slice_thickness
    if config.gap:
        thickness = config.spacing - config.gap
    made_from = {"SourceSHA256": sha256(scan)}
    refuse_to_replace([out, sidecar], [scan], sidecar, made_from, config.overwrite)
    thick, acquisition = simulate_slices(
        volume, config.slice_axis, config.spacing, thickness, config.profile,  # type: ignore[arg-type]
        config.noise, config.uneven, config.seed,
    )  # fmt: skip
    record = {
        "Simulated": str(acquisition),
        "SliceThickness": acquisition.thickness,
        "SpacingBetweenSlices": acquisition.spacing,
        "SliceProfile": acquisition.profile.kind,
        "Noise": config.noise,
        "Uneven": config.uneven,
        "Seed": config.seed,
        "Command": list(command),
        "Source": scan.name,
        **made_from,
        "Versions": versions(),
    }
    write_set(
        sidecar, record, {out: lambda part: write_volume(thick, part, "thick slices, vcm simulate")}
    )
    return out


def _off(values: NDArray, least: float) -> NDArray:
    """Values that are not the background's, so that what is shown is told from it again.

    They are as far above it as `find_background` asks for, and as single precision can tell.
    """
    tiny = 2 * max(ROUNDING * float(np.ptp(values)), float(np.spacing(np.float32(abs(least)))))
    return np.where(np.abs(values - least) < tiny, least + tiny, values)
