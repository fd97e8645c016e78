"""Model cards: what is known of each published model, from `cards/<name>.yaml`.

Facts only: where the files lie, their licences and sums, the networks that they fit, and what the
model must be told. What was never published is null (None), not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vcm.errors import VCMError

_FOLDER = Path(__file__).parent / "cards"

#: Parts of a model, by the names that its pipeline gives them.
PARTS = ("autoencoder", "denoiser", "module")


@dataclass(frozen=True)
class CardFile:
    """One published file.

    repo, path          on the model hub; None where it lies on none that is known
    megabytes           size [10^6 bytes], rounded as published
    licence, terms      name, and where to read it; None where unknown
    needs_acceptance    not permissive, or unknown: to be accepted before it is fetched
    """

    repo: str | None = None
    path: str | None = None
    megabytes: float | None = None
    md5: str | None = None
    licence: str | None = None
    terms: str | None = None
    needs_acceptance: bool = True


@dataclass(frozen=True)
class CardGrid:
    """Voxels of the model's volumes: shape, spacing [mm], axis codes, centre in RAS+ [mm]."""

    shape: list[int]
    spacing: list[float]
    axes: str
    centre: list[float] | None = None


@dataclass(frozen=True)
class Card:
    """One model.

    family          brainldm | maisi | brain2mm
    embedded        travels with the package, so there is nothing to fetch or import
    files           by part: autoencoder, denoiser, module
    networks        constructor arguments of our classes, by part
    conditions      what the module's encoders read, in their order
    inputs          what the denoiser is told, in its order
    ranges          least and greatest value of each input in training; None where unknown
    contrasts       name of a contrast -> class, for models that are told one
    contrast        the one that is meant where nothing is said
    latent_scale    z = (mu + sigma eps) scale; None where the file of the denoiser holds it
    prediction      what the denoiser's network predicts
    scheduler       name and options for vcm.diffusion.sampling.make_scheduler, as its authors have it
    steps           of sampling, likewise
    sampling        scheduler and steps that `vcm synthesize` takes where nothing is said, if others
    """

    name: str
    title: str
    family: str
    grid: CardGrid
    inputs: list[str]
    intended_use: str
    prediction: str
    scheduler: dict[str, Any]
    sources: list[str]
    embedded: bool = False
    files: dict[str, CardFile] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditions: list[str] = field(default_factory=list)
    ranges: dict[str, list[float] | None] = field(default_factory=dict)
    contrasts: dict[str, int] = field(default_factory=dict)
    contrast: str | None = None
    latent_scale: float | None = None
    steps: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def card_names() -> list[str]:
    """Names of all cards."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_card(name: str) -> Card:
    """The card of that name. Raises VCMError, with the nearest name, if there is none."""
    names = card_names()
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(names)}."
        raise VCMError(f"There is no model card '{name}': {hint}")
    return read_card(_FOLDER / f"{name}.yaml")


def read_card(path: Path) -> Card:
    """A card from its YAML file. Raises VCMError for a key that is unknown or absent."""
    try:
        table: Any = OmegaConf.to_container(OmegaConf.load(path))
        table["grid"] = CardGrid(**table["grid"])
        table["files"] = {part: CardFile(**f) for part, f in table.get("files", {}).items()}
        card = Card(**table)
        strange = (set(card.files) | set(card.networks)) - set(PARTS)
        if strange:
            raise ValueError(f"unknown part {sorted(strange)[0]}")
    except (OmegaConfBaseException, YAMLError, KeyError, TypeError, ValueError) as error:
        keys = ", ".join(f.name for f in fields(Card))
        reason = str(error).splitlines()[0]
        raise VCMError(
            f"{path.name} is not a model card ({reason}): its keys are {keys}."
        ) from error
    return card


def describe(card: Card) -> dict[str, str]:
    """The card in words, line by line; 'unknown' for what was never published."""
    grid = card.grid
    centre = _listed(grid.centre) if grid.centre else "unknown"
    scale = f"{card.latent_scale:.15g}" if card.latent_scale else "in the denoiser's file"
    own = [card.sampling] if card.sampling else []
    lines = {
        "model": f"{card.name}: {card.title}",
        "intended use": card.intended_use,
        "grid": f"{' x '.join(map(str, grid.shape))} of {_listed(grid.spacing, ' x ')} mm, {grid.axes}, "
        f"centre {centre}",
        "inputs": "; ".join(f"{name} {_range(card.ranges.get(name))}" for name in card.inputs),
        "contrasts": ", ".join(f"{name} {number}" for name, number in card.contrasts.items()),
        "conditions": ", ".join(card.conditions),
        "prediction": card.prediction,
        "latent scale": "in its folder" if card.embedded else scale,
        "sampling": f"{_scheduler(card.scheduler)}; {card.steps or 'unknown'} steps"
        + "".join(f"; here by default {s['scheduler']}, {s['steps']} steps" for s in own),
    }
    lines |= {part: describe_file(file) for part, file in card.files.items()}
    lines |= {"sources": "; ".join(card.sources), "notes": " ".join(map(_sentence, card.notes))}
    return {name: text for name, text in lines.items() if text}


def describe_file(file: CardFile) -> str:
    """Where one file lies, its size and licence."""
    place = f"{file.repo} {file.path}" if file.repo else "on no hub known here"
    size = f", {file.megabytes:g} MB" if file.megabytes else ""
    terms = f" ({file.terms})" if file.terms else ""
    accept = ", to be accepted" if file.needs_acceptance else ""
    return f"{place}{size}; licence {file.licence or 'unknown'}{terms}{accept}"


def _listed(values: Any, separator: str = ", ") -> str:
    return separator.join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def _range(pair: list[float] | None) -> str:
    return f"{pair[0]:g} to {pair[1]:g}" if pair else "(range unknown)"


def _scheduler(options: dict[str, Any]) -> str:
    return ", ".join(f"{v}" if k == "name" else f"{k}={v}" for k, v in options.items())


def _sentence(note: str) -> str:
    return note if note.endswith(".") else f"{note}."
