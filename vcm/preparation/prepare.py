"""Prepare: a folder of scans becomes a training set on the model's grid.

Each scan is prepared by itself, in several processes, and is written whole or not at all; the table, the
picture and the reasons of what was rejected follow. A scan that is done is skipped when the command runs
again, unless its image, label map, row or a setting has changed. Memory does not grow with the number of
scans.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vcm import __version__
from vcm.errors import VCMError
from vcm.files import check_output, is_occupied, sha256, write_json, write_table
from vcm.imaging.brain import PERCENTILES
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.geometry import model_grid
from vcm.imaging.prepared_set import COLUMNS, UNFINISHED, Subject
from vcm.imaging.source import Finding, Scan, Source, read_source
from vcm.imaging.vocabulary import BUILT_IN, load_vocabulary
from vcm.imaging.volume import Grid
from vcm.preparation.page import preparation_page
from vcm.preparation.record import PreparedScan
from vcm.preparation.repeats import without_repeats
from vcm.preparation.scan import UnwritableSet, prepare_scan
from vcm.progress import track
from vcm.report.folder import write_report
from vcm.report.picture import mosaic

if TYPE_CHECKING:
    from vcm.preparation.labelling import Labeller

#: Scans in the picture.
SHOWN = 48
#: Bytes per voxel of a prepared scan with its label map, compressed, at most.
BYTES = 5
#: A tenth of a second each.
_LOCK_TRIES = 40


@dataclass(frozen=True)
class Prepared:
    """What came of a folder.

    Attributes:
        scans: Records of the scans that can be trained on, in the order of the table.
        rejected: Scans that cannot be used, with the reason.
        notes: What was understood with a reservation.
        split: Where the split comes from: 'participants.tsv', or 'seed N'.
    """

    scans: tuple[PreparedScan, ...]
    rejected: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    split: str


def prepare(
    folder: Path,
    out: Path,
    labels: str = "auto",
    workers: int = 2,
    grid: Grid | None = None,
    segmenter: str = "",
    image_desc: str = "",
    label_desc: str = "",
    split_seed: int = 0,
) -> Prepared:
    """Prepare every scan of a folder.

    Args:
        folder: A BIDS folder, or one of T1w files; see `read_source`.
        out: Folder for the training set: a new one, or one that this function wrote.
        labels: Vocabulary of the label maps: a name, a YAML table, 'mask', or 'auto'.
        workers: Processes side by side.
        grid: Of the model; by default that of brain2mm.
        segmenter: Labels the scans that have no map: a name or folder; '' leaves them without.
        image_desc: As `read_source`.
        label_desc: As `read_source`.
        split_seed: As `read_source`.

    Raises:
        VCMError: Nothing can be used, or the set cannot be written there.
    """
    grid = grid or model_grid()
    if labels != "auto":
        load_vocabulary(labels)
    labeller = None
    if segmenter:  # without one, neither a network nor torch is loaded
        from vcm.preparation.labelling import Labeller

        labeller = Labeller(segmenter)
    source = read_source(folder, image_desc, label_desc, split_seed)
    refuse_place(folder, out)
    new = sum(not (out / scan.subject).is_dir() for scan in source.scans)
    check_output(out, BYTES * math.prod(grid.shape) * new)
    settings = _settings(labels) | ({"segmenter": labeller.checksum} if labeller else {})
    with _unfinished(out):
        done, failed = _prepare_all(source.scans, out, settings, grid, workers, labeller)
        done, repeated = without_repeats(done)
        rejected = (*source.rejected, *failed, *repeated)
        of_scans = (Finding(scan.participant_id, note) for scan in done for note in scan.notes)
        source = replace(source, notes=(*source.notes, *of_scans))
        columns = ["participant_id", "reason"]
        rows = ({"participant_id": f.subject, "reason": f.what} for f in rejected)
        write_table(out / "rejected.tsv", rows, columns)
        if done:
            _write_set(out, done, source, labels, grid)
    if not done:
        raise VCMError(
            f"None of the {len(rejected)} scans in {folder} can be used, the first "
            f"({rejected[0].subject}) because: {rejected[0].what} See rejected.tsv."
        )
    made = Prepared(tuple(done), rejected, source.notes, source.split)
    write_report(
        out, lambda: preparation_page(made.scans, made.rejected, made.notes, made.split, out)
    )
    return made


def refuse_place(folder: Path, out: Path) -> None:
    """Refuse to write among the scans or over something else, before anything is written.

    Raises:
        VCMError: `out` is the folder of the scans, holds it, or lies in it beside the subjects; or it
            holds files that are no prepared set.
    """
    given, wanted = folder.resolve(), out.resolve()
    derivatives = given / "derivatives"
    inside = given in wanted.parents and derivatives not in wanted.parents
    if wanted in (given, derivatives) or inside or wanted in given.parents:
        raise VCMError(
            f"{out} lies among the scans of {folder}, or holds them: choose another folder for the "
            f"training set, for instance {folder / 'derivatives' / 'vcm'}.",
            argument="out",
        )
    ours = any((out / name).exists() for name in ("dataset.json", "rejected.tsv", UNFINISHED))
    if out.is_dir() and not ours and is_occupied(out):
        raise VCMError(
            f"{out} holds files that vcm prepare did not write: choose a new folder for the training "
            "set.",
            argument="out",
        )


@contextmanager
def _unfinished(out: Path) -> Iterator[None]:
    """Mark the set as unfinished while it is written to, and keep other runs out.

    No training reads a half of it. The mark stays where the run is killed, the lock does not.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / UNFINISHED).open("a") as mark:
        if not _locked(mark):
            raise VCMError(
                f"Another vcm prepare is writing to {out}: wait for it, or choose another folder.",
                argument="out",
            )
        yield
        (out / UNFINISHED).unlink(missing_ok=True)


def _locked(mark: IO[str]) -> bool:
    """Lock an open file; False where another process holds it and goes on to hold it for some seconds.

    The last processes of a run that was killed let go of it within that time.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return True
    for _ in range(_LOCK_TRIES):
        with suppress(OSError):
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)
    return False


def _settings(labels: str) -> dict[str, str]:
    """What a prepared scan is made from beside its files and the grid."""
    settings = {"labels": labels}
    if labels not in ("auto", *BUILT_IN):
        settings["table"] = sha256(Path(labels))
    return settings


def _prepare_all(
    scans: tuple[Scan, ...],
    out: Path,
    settings: dict[str, str],
    grid: Grid,
    workers: int,
    labeller: Labeller | None,
) -> tuple[list[PreparedScan], list[Finding]]:
    """Records in the order of the scans, and what failed."""
    done: dict[str, PreparedScan] = {}
    failed: dict[str, str] = {}
    with closing(_in_processes(scans, out, settings, grid, workers)) as jobs:
        for scan, result in track(jobs, "Preparing", total=len(scans)):
            try:
                prepared = result()
                done[scan.subject] = labeller(prepared, out) if labeller else prepared
            except BrokenProcessPool:
                failed[scan.subject] = "ended its process, probably because memory ran out"
            except UnwritableSet:
                raise
            except VCMError as error:
                failed[scan.subject] = str(error)
            except Exception as error:  # whatever one scan is, the others are prepared
                failed[scan.subject] = f"cannot be prepared ({type(error).__name__}: {error})"
    return [done[s.subject] for s in scans if s.subject in done], [
        Finding(s.subject, failed[s.subject]) for s in scans if s.subject in failed
    ]


def _in_processes(
    scans: Iterable[Scan], out: Path, settings: dict[str, str], grid: Grid, workers: int
) -> Generator[tuple[Scan, Callable[[], PreparedScan]], None, None]:
    """Each scan as it is done, with a function that gives its record or raises what went wrong.

    A process that dies takes the whole pool with it, so scans that were waiting then get one each.
    """
    waiting = []
    with ProcessPoolExecutor(max(1, workers), initializer=_end_with_parent) as pool:
        jobs = {pool.submit(prepare_scan, scan, out, settings, grid): scan for scan in scans}
        for job in as_completed(jobs):
            if isinstance(job.exception(), BrokenProcessPool):
                waiting.append(jobs[job])
            else:
                yield jobs.pop(job), job.result
    for scan in waiting:
        with ProcessPoolExecutor(1, initializer=_end_with_parent) as pool:
            yield scan, pool.submit(prepare_scan, scan, out, settings, grid).result


def _end_with_parent() -> None:
    """Let a process end when the command that it works for was killed: it would wait for work forever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_set(
    out: Path, done: Sequence[PreparedScan], source: Source, labels: str, grid: Grid
) -> None:
    """Tables, description and picture of the prepared scans."""
    notes = ({"participant_id": f.subject, "note": f.what} for f in source.notes)
    write_table(out / "notes.tsv", notes, ["participant_id", "note"])
    write_table(out / "participants.tsv", (asdict(d) for d in done), COLUMNS)
    write_json(out / "dataset.json", _describe(done, source.split, labels, grid))
    shown = [
        Subject(
            d.participant_id, d.split, d.age, d.sex, d.ventricular_volume, d.brain_volume,
            out / d.participant_id, d.participant,
        )
        for d in done[:SHOWN]
    ]  # fmt: skip
    images = (subject.image() for subject in shown)
    maps = (subject.classes() if subject.has_classes else None for subject in shown)
    mosaic(images, out / "qc.png", [s.subject for s in shown], grid.affine, maps)


def _describe(
    done: Sequence[PreparedScan], split: str, labels: str, grid: Grid
) -> dict[str, object]:
    def limits(name: str) -> list[float] | None:
        values = [getattr(d, name) for d in done if d.split == "train"]
        known = [value for value in values if value is not None]
        return [min(known), max(known)] if known else None

    return {
        "vcm_version": __version__,
        "grid": {"shape": grid.shape, "affine": grid.affine.tolist(), "axes": grid.orientation},
        "percentiles": PERCENTILES,
        "labels": labels,
        "split": split,
        "subjects": {s: sum(d.split == s for d in done) for s in sorted({d.split for d in done})},
        "train_ranges": {name: limits(name) for name in COVARIATES[1:]},
    }
