"""The command `vcm`: parsing only. Heavy imports happen inside the command, so --help is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    help="Steer a frozen 3D diffusion model of brain MRI with a Volumetric Conditioning Module.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: Newer versions of typer carry a click of their own, so its classes are reached through typer.
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]


@app.callback()
def _root() -> None:
    """Steer a frozen 3D diffusion model of brain MRI with a Volumetric Conditioning Module."""


@app.command()
def synthesize(
    condition: Annotated[
        Path | None,
        typer.Argument(help="Label map (NIfTI), or 'example'; the result lies on its voxels."),
    ] = None,
    partial: Annotated[
        Path | None, typer.Option(help="Part of a brain-extracted scan, for modules that read one.")
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="Mask: 1 where the partial image is to be kept.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for volumes, sidecars and the picture.")] = Path(
        "synthetic"
    ),
    model: Annotated[
        str, typer.Option(help="Name of an embedded model, or a folder.")
    ] = "brain2mm",
    age: Annotated[float | None, typer.Option(help="Years.")] = None,
    sex: Annotated[str | None, typer.Option(help="F or M.")] = None,
    ventricular_volume: Annotated[float | None, typer.Option(help="mL.")] = None,
    brain_volume: Annotated[
        float | None, typer.Option(help="mL, without ventricles and CSF.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="One volume per seed: 0-3 or 1,5,9.")] = "0",
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; as the model recommends if none.")
    ] = None,
    scheduler: Annotated[
        str,
        typer.Option(
            help="auto (what the model recommends) | saved (in its folder; of imported models the "
            "authors') | ddim | ddpm | dpm++ | unipc | euler | flow."
        ),
    ] = "auto",
    temperature: Annotated[
        float | None,
        typer.Option(help="Scale of the noise to begin with; the model's own if none."),
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="For models that make several, by name.")
    ] = None,
    conditioning_scale: Annotated[float, typer.Option(help="Strength of the module.")] = 1.0,
    control_guidance_start: Annotated[
        float, typer.Option(help="Fraction of the steps at which the module sets in.")
    ] = 0.0,
    control_guidance_end: Annotated[
        float, typer.Option(help="Fraction of the steps at which it stops.")
    ] = 1.0,
    labels: Annotated[
        str, typer.Option(help="auto | dlmuse | freesurfer | vcm8 | a YAML table.")
    ] = "auto",
    uncontrolled: Annotated[
        bool, typer.Option("--uncontrolled", help="Sample the frozen model alone.")
    ] = False,
    model_grid: Annotated[
        bool, typer.Option("--model-grid", help="Write each volume on the model's grid too.")
    ] = False,
    allow_extrapolation: Annotated[
        bool, typer.Option("--allow-extrapolation", help="Take covariates outside the range seen.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:1 | mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32 | bfloat16: of the denoising, faster on most machines.")
    ] = "float32",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with expected time and memory.")
    ] = False,
) -> None:
    """Make T1-weighted brains that obey a label map, one per seed, on the map's own voxels."""
    from rich.console import Console

    from vcm.synthesis.synthesize import Synthesis, describe, resolve
    from vcm.synthesis.synthesize import synthesize as run
    from vcm.weights.load import example_condition

    if condition == Path("example") and not condition.exists():
        condition = example_condition()
    config = Synthesis(
        condition=condition, partial=partial, known=known, out=out, model=model, labels=labels, age=age, sex=sex,
        ventricular_volume=ventricular_volume, brain_volume=brain_volume, contrast=contrast,
        seeds=parse_seeds(seeds), steps=steps, scheduler=scheduler, temperature=temperature,
        conditioning_scale=conditioning_scale, control_guidance_start=control_guidance_start,
        control_guidance_end=control_guidance_end, uncontrolled=uncontrolled,
        model_grid=model_grid, allow_extrapolation=allow_extrapolation, device=device, precision=precision,
    )  # fmt: skip
    if dry_run:
        for name, value in describe(resolve(config)).items():
            typer.echo(f"{name:>18}  {value}")
        return
    for path in run(config, ["vcm", *sys.argv[1:]], Console(stderr=True)):
        typer.echo(path)


def parse_seeds(text: str) -> list[int]:
    """'0-3' or '1,5,9' -> whole numbers, each once. Raises VCMError."""
    from vcm.errors import VCMError

    try:
        seeds: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError:
        seeds = []
    if not seeds:
        raise VCMError(f"--seeds is '{text}': write whole numbers such as 0-3 or 1,5,9.")
    return list(dict.fromkeys(seeds))


@app.command()
def upsample(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="Scan of thick slices (NIfTI), or 'example'; several of one head go together."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for volumes, sidecar and picture.")] = Path(
        "upsampled"
    ),
    model: Annotated[
        str, typer.Option(help="Name of an embedded model, or a folder.")
    ] = "brain1mm",
    spacing: Annotated[float, typer.Option(help="Of the result [mm].")] = 1.0,
    slice_axis: Annotated[
        str | None, typer.Option(help="axial | coronal | sagittal; from the header if none.")
    ] = None,
    slice_thickness: Annotated[
        float | None, typer.Option(help="[mm]; the spacing between slices if none.")
    ] = None,
    profile: Annotated[str, typer.Option(help="gaussian | boxcar: of a slice.")] = "gaussian",
    brain_mask: Annotated[
        list[Path] | None,
        typer.Option(help="For a scan with its skull on; once per scan, in their order."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Brains to draw, written beside the result; 0: none.")
    ] = 4,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the first sample.")] = 0,
    output: Annotated[
        str, typer.Option(help="mean (errs least) | sample (sharper): what the result is.")
    ] = "mean",
    no_consistency: Annotated[
        bool, typer.Option("--no-consistency", help="Leave the samples as the model made them.")
    ] = False,
    noise: Annotated[float, typer.Option(help="Error of a slice over that of a sample.")] = 0.1,
    detail_noise: Annotated[
        float, typer.Option(help="The same over that of the result; less: nearer to the slices.")
    ] = 0.5,
    no_mirrors: Annotated[
        bool,
        typer.Option("--no-mirrors", help="Add detail to the brain, not to its mirror images too."),
    ] = False,
    any_contrast: Annotated[
        bool, typer.Option("--any-contrast", help="Take scans that do not look T1-weighted.")
    ] = False,
    age: Annotated[float | None, typer.Option(help="Years.")] = None,
    sex: Annotated[str | None, typer.Option(help="F or M.")] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:1 | mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="bfloat16 | float32: of the denoising.")
    ] = "bfloat16",
) -> None:
    """Turn thick slices into an isotropic volume with its uncertainty, in the scan's own space."""
    from rich.console import Console

    from vcm.upsampling.upsample import Upsampling
    from vcm.upsampling.upsample import upsample as run

    config = Upsampling(
        scans=scans, out=out, model=model, spacing=spacing, slice_axis=slice_axis,
        slice_thickness=slice_thickness, profile=profile, masks=brain_mask or [], samples=samples,
        steps=steps, seed=seed, output=output, consistency=not no_consistency, noise=noise, detail_noise=detail_noise,
        mirrors=not no_mirrors, any_contrast=any_contrast, age=age, sex=sex, device=device, precision=precision,
    )  # fmt: skip
    for path in run(config, ["vcm", *sys.argv[1:]], Console(stderr=True)):
        typer.echo(path)


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="BIDS folder: participants.tsv, *_T1w.nii.gz.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the training set; needed without --check.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only list what is wrong with the folder.")
    ] = False,
    labels: Annotated[
        str, typer.Option(help="auto | dlmuse | freesurfer | vcm8 | a YAML table.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = (
        os.cpu_count() or 1
    ),
    spacing: Annotated[float, typer.Option(help="Of an embedded model's grid [mm]: 2 or 1.")] = 2.0,
    model: Annotated[
        str, typer.Option(help="Prepare on the grid of this model instead: a name, or a folder.")
    ] = "",
    segmenter: Annotated[
        str, typer.Option(help="Labels scans that have no map: segmenter2mm, or a folder.")
    ] = "",
) -> None:
    """Turn a BIDS folder into a training set on the model's grid."""
    if check:
        _check_folder(folder, labels)
        return
    if out is None:
        _refuse("No folder is given to write to: add --out FOLDER, or --check to write nothing.")
    from vcm.imaging.geometry import model_grid
    from vcm.preparation.prepare import prepare as run
    from vcm.weights.load import grid_of

    grid = grid_of(model) if model else model_grid(spacing)
    done = run(folder, out, labels, workers, grid, segmenter)
    typer.echo(f"{len(done)} scans prepared in {out}; see qc.png and rejected.tsv there.")


def _check_folder(folder: Path, labels: str) -> None:
    """Print every problem and end with exit code 2 if there is one."""
    from vcm.preparation.check import check_folder

    problems = check_folder(folder, labels)
    for problem in problems:
        typer.echo(f"{problem.subject}\t{problem.what}")
    if problems:
        _refuse(f"{len(problems)} problem(s) in {folder}: correct them, then check again.")
    typer.echo(f"No problem found in {folder}.")


@app.command()
def segment(
    scan: Annotated[Path, typer.Argument(help="Brain-extracted T1w scan (NIfTI).")],
    out: Annotated[Path, typer.Option(help="Label map to write, for instance sub-1_dseg.nii.gz.")],
    segmenter: Annotated[
        str, typer.Option(help="Name of an embedded segmenter, or a folder.")
    ] = "segmenter2mm",
) -> None:
    """Make an eight-class label map of a scan, a condition for `vcm synthesize`."""
    from vcm.preparation.segment import segment as run

    for name, volume in run(scan, out, segmenter).items():
        typer.echo(f"{name:>18}  {volume:.1f} mL")


pretrain = typer.Typer(help="Train the networks that later stay frozen.", no_args_is_help=True)
app.add_typer(pretrain, name="pretrain")


@pretrain.callback()
def _pretrain() -> None:
    """Train the networks that later stay frozen."""


@pretrain.command()
def autoencoder(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the latent autoencoder on prepared scans; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.training.autoencoder import AutoencoderTraining, pretrain_autoencoder

    measures = pretrain_autoencoder(
        load_config(AutoencoderTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")


@pretrain.command()
def diffusion(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] autoencoder=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the latent diffusion model on an autoencoder's latents; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.training.diffusion import DiffusionTraining, pretrain_diffusion

    measures = pretrain_diffusion(
        load_config(DiffusionTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.4f}")


@pretrain.command()
def segmenter(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the tissue segmenter that `vcm evaluate` measures with; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.training.segmenter import SegmenterTraining, pretrain_segmenter

    measures = pretrain_segmenter(
        load_config(SegmenterTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")


@pretrain.command()
def detail(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] model=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Train the detail that `vcm upsample` adds to what a model expects; run again to resume."""
    from vcm.config import load_config, split_arguments
    from vcm.upsampling.detail_training import DetailTraining, pretrain_detail

    measures = pretrain_detail(
        load_config(DetailTraining, *split_arguments(overrides or [], config))
    )
    for name, value in measures.items():
        typer.echo(f"{name} {value:.3f}")


@app.command()
def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] model=FOLDER."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with expected time and memory.")
    ] = False,
) -> None:
    """Train a conditioning module on a frozen model; run again to resume.

    CONFIG is a YAML file or the name of one that travels with the package; key=value changes it.
    """
    from vcm.config import load_config, split_arguments
    from vcm.training.module import ModuleTraining
    from vcm.training.module import train as run

    chosen = load_config(ModuleTraining, *split_arguments(overrides or [], config))
    if dry_run:
        from vcm.training.forecast import describe

        for name, words in describe(chosen).items():
            typer.echo(f"{name:>18}  {words}")
        return
    for name, value in run(chosen).items():
        typer.echo(f"{name} {value:.4f}")


@app.command()
def evaluate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="CONFIG, key=value, for instance data=[PREPARED] model=NAME."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML configuration.")] = None,
) -> None:
    """Measure a model on test subjects: adherence, realism, privacy, covariates; with a report."""
    from vcm.config import load_config, split_arguments
    from vcm.evaluation.evaluate import Evaluation
    from vcm.evaluation.evaluate import evaluate as run

    chosen = load_config(Evaluation, *split_arguments(overrides or [], config))
    run(chosen)
    typer.echo(f"Measured; see summary.md, summary.json and the tables in {chosen.out}.")


weights = typer.Typer(
    help="Models that travel with the package, published ones, and copies of yours."
)
app.add_typer(weights, name="weights")


@weights.command("list")
def list_weights() -> None:
    """Name the embedded models with their folders, and the published ones that can be imported."""
    from vcm.weights.cards import card_names, load_card
    from vcm.weights.load import embedded_models, model_folder

    for name in embedded_models():
        typer.echo(f"{name}\tembedded\t{model_folder(name)}")
    for card in map(load_card, card_names()):
        if not card.embedded:
            licences = sorted({file.licence or "unknown" for file in card.files.values()})
            typer.echo(f"{card.name}\tpublished\t{card.title}; licence {', '.join(licences)}")


@weights.command("show")
def show_weights(
    name: Annotated[str, typer.Argument(help="Name of a model, as vcm weights list has it.")],
) -> None:
    """Print the card of a model: files, licences, grid, inputs, latent scale, sources."""
    from vcm.weights.cards import describe, load_card

    for key, value in describe(load_card(name)).items():
        typer.echo(f"{key:>12}  {value}")


@weights.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="Name of a published model.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; by default the hub's own cache.")
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="I have read the licences and accept them.")
    ] = False,
) -> None:
    """Show the licences of a published model's files, then fetch the files."""
    from rich.console import Console

    from vcm.weights.fetching import fetch

    for part, path in fetch(name, out, accept_license, Console(stderr=True)).items():
        typer.echo(f"{part}\t{path}")


@weights.command("import")
def import_model(
    name: Annotated[str, typer.Argument(help="Name of a published model.")],
    autoencoder: Annotated[Path, typer.Option(help="Its autoencoder: .pt, .pth or .safetensors.")],
    unet: Annotated[Path, typer.Option(help="Its diffusion U-Net.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; must not exist yet.")],
    module: Annotated[Path | None, typer.Option(help="Its conditioning module, if any.")] = None,
) -> None:
    """Load published files strictly and write them as a folder for --model."""
    from rich.console import Console

    from vcm.weights.importing import import_weights

    import_weights(name, autoencoder, unet, module, out, Console(stderr=True))
    typer.echo(out)


@weights.command("verify")
def verify_weights(
    folder: Annotated[
        str, typer.Argument(help="Folder of a model, or the name of an embedded one.")
    ],
) -> None:
    """Check every tensor of a model against its networks, and the frozen model against its record."""
    from vcm.weights.verifying import verify

    for row in verify(folder):
        typer.echo(f"{row.what:>12}  {row.found}")


@weights.command("pack")
def pack_weights(
    model: Annotated[str, typer.Argument(help="Name of an embedded model, or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the copy.")],
) -> None:
    """Copy a model in half precision, as the embedded ones are stored."""
    from vcm.weights.packing import pack

    typer.echo(f"{pack(model, out) / 1e6:.1f} MB in {out}")


def main() -> None:
    """Entry point. A VCMError or a wrong usage becomes one sentence on stderr and exit code 2."""
    from vcm.errors import VCMError

    try:
        sys.exit(app(standalone_mode=False) or 0)
    except VCMError as error:
        _refuse(str(error))
    except _USAGE_ERROR as error:
        sentence = error.format_message()
        _refuse(f"{sentence} See vcm COMMAND --help." if sentence else "")
    except typer.Abort:
        sys.exit(130)


def _refuse(sentence: str) -> NoReturn:
    if sentence:
        typer.echo(f"vcm: {sentence}", err=True)
    sys.exit(2)
