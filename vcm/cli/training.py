"""`vcm train` and `vcm pretrain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from vcm.fewshot.configuration import EncoderTraining
from vcm.training.configuration import (
    AutoencoderTraining,
    DiffusionTraining,
    ModuleTraining,
    SegmenterTraining,
    SequenceSegmenterTraining,
)
from vcm.training.fine_configuration import (
    BandDecoderTraining,
    FineDiffusionTraining,
    FineModuleTraining,
)
from vcm.training.super_resolution_configuration import SuperResolutionTraining
from vcm.upsampling.configuration import ContrastTraining, DetailTraining, TranslatorTraining


def train(
    config: ModuleTraining,
    *,
    dry_run: Annotated[bool, "Print the plan with expected time and memory."] = False,
) -> None:
    """Train a conditioning module on a frozen model; run again to resume."""
    from vcm.training.module import train as run

    if dry_run:
        from vcm.training.forecast import describe

        for name, words in describe(config).items():
            print(f"{name:>18}  {words}")
        return
    _print(run(config), 4)


def autoencoder(config: AutoencoderTraining) -> None:
    """Train the latent autoencoder on prepared scans; run again to resume."""
    from vcm.training.autoencoder import pretrain_autoencoder

    _print(pretrain_autoencoder(config), 3)


def diffusion(config: DiffusionTraining) -> None:
    """Train the latent diffusion model on an autoencoder's latents; run again to resume."""
    from vcm.training.diffusion import pretrain_diffusion

    _print(pretrain_diffusion(config), 4)


def band_decoder(config: BandDecoderTraining) -> None:
    """Train the decoder of a band-limited latent; run again to resume."""
    from vcm.training.band_decoder import pretrain_band_decoder

    _print(pretrain_band_decoder(config), 4)


def fine_diffusion(config: FineDiffusionTraining) -> None:
    """Train the diffusion model of a band-limited latent on deformed brains; run again to resume."""
    from vcm.training.fine_diffusion import pretrain_fine_diffusion

    _print(pretrain_fine_diffusion(config), 4)


def fine_module(config: FineModuleTraining) -> None:
    """Train the label-map module of such a model on deformed brains; run again to resume."""
    from vcm.training.fine_module import train_fine_module

    _print(train_fine_module(config), 4)


def super_resolution(config: SuperResolutionTraining) -> None:
    """Train the network that halves the voxel size of a model's volumes; run again to resume."""
    from vcm.training.super_resolution import pretrain_super_resolution

    _print(pretrain_super_resolution(config), 4)


def segmenter(config: SegmenterTraining) -> None:
    """Train the tissue segmenter that `vcm evaluate` measures with; run again to resume."""
    from vcm.training.segmenter import pretrain_segmenter

    _print(pretrain_segmenter(config), 3)


def sequence_segmenter(config: SequenceSegmenterTraining) -> None:
    """Train the network that `vcm fewshot` begins a label map of several sequences with; run again to resume."""
    from vcm.training.sequence_segmenter import pretrain_sequence_segmenter

    _print(pretrain_sequence_segmenter(config), 3)


def encoder(config: EncoderTraining) -> None:
    """Train an encoder on unlabelled scans for `vcm fewshot`; run again to resume."""
    from vcm.fewshot.pretraining.encoder import pretrain_encoder

    _print(pretrain_encoder(config), 5)


def detail(config: DetailTraining) -> None:
    """Train the detail network of `vcm upsample`; run again to resume."""
    from vcm.upsampling.pretraining.detail_training import pretrain_detail

    _print(pretrain_detail(config), 3)


def contrasts(config: ContrastTraining) -> None:
    """Train a detail network for scans of any contrast; run again to resume."""
    from vcm.upsampling.pretraining.contrast_training import pretrain_contrasts

    _print(pretrain_contrasts(config), 3)


def translator(config: TranslatorTraining) -> None:
    """Train the network of `vcm upsample --to T1w`; run again to resume."""
    from vcm.upsampling.pretraining.translation_training import pretrain_translator

    _print(pretrain_translator(config), 3)


def _print(measures: Mapping[str, float], digits: int) -> None:
    for name, value in measures.items():
        print(f"{name} {value:.{digits}f}")
