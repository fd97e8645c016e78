"""`vcm segment fit | apply | suggest`."""

from __future__ import annotations

from itertools import count

from vcm.cli.console import notes
from vcm.cli.derivatives import Bids, Desc, Participants, refuse_without_bids, run_dataset
from vcm.errors import VCMError
from vcm.progress import progress, stages
from vcm.segmentation.configuration import Applying, Fitting, SliceTraining, Suggesting


def slices(config: SliceTraining) -> None:
    """Train the slice diffusion model whose features `vcm segment fit` reads; run again to resume."""
    from vcm.segmentation.pretrain import pretrain_slices

    for name, value in pretrain_slices(config).items():
        print(f"{name} {value:.4f}")


def fit(config: Fitting) -> None:
    """Learn labels from one or a few labelled scans, whole or drawn in some slices."""
    from vcm.imaging.nifti import refuse_missing

    refuse_missing(*config.scans, *config.labels)
    from vcm.device import choose_device
    from vcm.embedded import network_folder
    from vcm.segmentation.classifier_fit import FitSettings
    from vcm.segmentation.fit import fit_segmenter

    console = notes()
    folder = network_folder(config.slices)
    settings = FitSettings(config.members, config.steps, patience=config.patience, seed=config.seed)
    with stages("reading") as on_stage:
        segmenter = fit_segmenter(
            config.scans, config.labels, config.out, folder, config.names, config.unlabelled,
            config.voices or None, config.time, config.noisy, config.blocks, config.copies, config.voxels,
            config.judged, config.slab, config.mirror, config.start, settings, choose_device(config.device), on_stage,
        )  # fmt: skip
    if config.mirror and segmenter.other_side is None:
        console.print(
            "Scans are named without their mirror image: not every label has its counterpart on the other side."
        )
    voices = list(segmenter.trust)
    helps = {"atlas": segmenter.atlas_helps, "unet": segmenter.unet_helps}
    suffices = segmenter.unet_suffices and "features" in segmenter.voices
    beside = [voice for voice in segmenter.voices if voice in helps and not suffices]
    heard = [f"{voice} heard" for voice in beside]
    print("\t".join(["structure", *(f"Dice of {voice}" for voice in voices), *heard]))
    for k, name in enumerate(segmenter.names[1:], start=1):
        values = [f"{segmenter.trust[voice][name]:.2f}" for voice in voices]
        said = ["yes" if helps[voice][k] else "no" for voice in beside]
        print("\t".join([name, *values, *said]))
    print(f"Dice on deformed copies that were not learned from. The segmenter is in {config.out}.")
    if suffices:
        print(
            "Scans are named without the features, which tell the uncertainty; --voices of apply decides otherwise."
        )


def apply(
    config: Applying,
    *,
    bids: Bids = False,
    participant_label: Participants = None,
    desc: Desc = "",
) -> None:
    """Segment scans with what `vcm segment fit` learned, each on its own voxels."""
    refuse_without_bids(bids, participant_label, desc)
    from vcm.device import choose_device
    from vcm.segmentation.apply import find_scans, segment_files
    from vcm.segmentation.likeness import check_match
    from vcm.segmentation.segmenter import FewShotSegmenter
    from vcm.segmentation.slabs import check_slab

    check_match(config.match)
    check_slab(config.slab)
    if config.model is None:
        raise VCMError("No segmenter is given: add --model FOLDER, which vcm segment fit wrote.")
    segmenter = FewShotSegmenter.from_pretrained(config.model).to(choose_device(config.device))
    segmenter.slab = config.slab
    if bids:
        from vcm.segmentation.derivation import segmentation_derivation

        made = segmentation_derivation(config.model, segmenter, config.voices or None, config.match)
        run_dataset(made, config.scans, config.out, participant_label, desc, config.overwrite)
        return
    found = find_scans(config.scans, config.out)
    done = count(1)
    with progress("Segmenting") as tell:
        rows = segment_files(
            found, config.model, segmenter, config.out, config.voices or None, config.overwrite,
            config.match, lambda name: tell(next(done), len(found)),
        )  # fmt: skip
    for row in rows:
        print(f"{row['scan']}\t{row['status']}")
    refused = [row for row in rows if row["status"] not in ("done", "kept")]
    if refused:
        raise VCMError(f"{len(refused)} of {len(rows)} scans were refused; see volumes.tsv.")


def suggest(config: Suggesting) -> None:
    """Rank prepared scans by how well each would stand for the others if it were labelled."""
    from vcm.imaging.prepared_set import check_one_grid, load_prepared
    from vcm.segmentation.suggest import rank_candidates

    if not config.data:
        raise VCMError("No data is given: add --data FOLDER, which vcm prepare wrote.")
    if config.show < 1:
        raise VCMError(f"show is {config.show}: choose 1 or more.")
    subjects = load_prepared(*config.data, split=config.split)
    check_one_grid(subjects)
    done = count(1)
    with progress("Comparing") as tell:
        found = rank_candidates(
            subjects, config.others, config.seed, lambda: tell(next(done), len(subjects))
        )
    print("subject\tresidual\tage\tsex")
    for candidate in found[: config.show]:
        own = candidate.subject
        age = "n/a" if own.age is None else own.age
        print(f"{own.subject}\t{candidate.residual:.4f}\t{age}\t{own.sex or 'n/a'}")
