"""Files written whole or not at all, tables, checksums, and what is recorded beside a result.

Knows paths and bytes; nothing of scans or networks.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vcm import __version__
from vcm.errors import VCMError


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table with a header line, as vcm writes them; what a row lacks is ''.

    Raises:
        VCMError: There is no such file, or another program has stored it in another encoding.
    """
    if not path.is_file():
        raise VCMError(f"{path} does not exist: give a folder that holds {path.name}.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return list(csv.DictReader(lines, delimiter="\t", restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise VCMError(
            f"{path} is no table in UTF-8 ({error}): store it as tab-separated text in UTF-8, or have it "
            "written again."
        ) from error


def write_table(path: Path, rows: Iterable[Mapping[str, object]], columns: list[str]) -> None:
    """Write rows tab-separated in one move; None becomes n/a."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({c: "n/a" if row.get(c) is None else row[c] for c in columns})


def write_json(path: Path, content: object) -> None:
    """Write JSON in one move."""
    text = json.dumps(content, indent=2) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or folder under a temporary name, to the disk, and only then give it its name.

    Args:
        path: Where the file or folder is to lie. What lies there is replaced in one move.
        write: Writes to the path that it is given, which ends as `path` does.

    Raises:
        VCMError: The disk is full or cannot be written, or a file would replace a folder. What lay at
            `path` is left as it was.
    """
    with whole(path) as part:
        write(part)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """`write_whole` as a block: yields the temporary path, and nothing stays if the block raises.

    The temporary name belongs to this process alone, so that two runs into one folder do not meet. A
    folder that is replaced has another name for a moment, by which `replaced` finds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    _remove_abandoned(path.parent)
    part = _temporary(path)
    try:
        yield part
        if path.is_dir() and not part.is_dir():
            raise VCMError(
                f"{path} is a folder, but a file is to be written there: choose another."
            )
        give_usual_mode(part)
        _flush(part)
        _give_name(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    except Exception as error:
        # Libraries that write by themselves have errors of their own for a full disk.
        if isinstance(error, VCMError) or not _is_full(path.parent):
            raise
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise _unwritable(path, full) from error
    finally:
        remove(part)


def write_set(
    sidecar: Path,
    record: Mapping[str, object],
    writers: Mapping[Path, Callable[[Path], object]],
    stale: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Write files that belong together, and JSON that says what they are, with their checksums.

    All are written under temporary names first. The sidecar gets its name before the files do, so that
    no file is ever there without it; its checksums tell whether a run was killed before the last one.

    Args:
        sidecar: Path of the JSON file.
        record: Its content; `Files` is added, the SHA-256 of each file by its name.
        writers: Path -> what writes the file to the path that it is given.
        stale: Files of an earlier set, beside the sidecar, and their SHA-256: those that are not written
            now go after the last one is there. The sidecar lists them until then, so that they are found
            after a run that was killed.

    Returns:
        The content of the sidecar.

    Raises:
        VCMError: As `write_whole`. No file is left then whose writing did not end.
    """
    with ExitStack() as stack:
        parts = {path: stack.enter_context(whole(path)) for path in reversed([*writers])}
        for path, write in writers.items():
            write(parts[path])
        files = {path.name: sha256(parts[path]) for path in writers}
        gone = {name: checksum for name, checksum in (stale or {}).items() if name not in files}
        content = {**record, "Files": files}
        write_json(sidecar, {**content, "Files": {**files, **gone}})
    if gone:
        remove_unchanged(sidecar.parent, gone)
        write_json(sidecar, content)
    return content


def listed_files(sidecar: Path) -> dict[str, str]:
    """SHA-256 of the files that lie beside a sidecar, by name, as it lists them; none where it lists none."""
    content = read_json(sidecar).get("Files")
    listed = content.items() if isinstance(content, dict) else ()
    return {name: str(checksum) for name, checksum in listed if Path(name).name == name}


def earlier_files(sidecar: Path, inputs: Iterable[Path]) -> dict[str, str]:
    """As `listed_files`, without what is read now: files of an earlier run that `write_set` may remove."""
    read = {path.resolve() for path in inputs}
    listed = listed_files(sidecar).items()
    return {n: c for n, c in listed if sidecar.with_name(n).resolve() not in read}


def remove_unchanged(folder: Path, files: Mapping[str, str]) -> None:
    """Remove files of a folder, by their paths in it, where their SHA-256 still is the given one."""
    for name, checksum in files.items():
        path = folder / name
        if path.is_file() and sha256(path) == checksum:
            with suppress(OSError):  # what cannot be removed does no harm to what is new
                path.unlink()


def give_usual_mode(path: Path) -> None:
    """Let others read a file, or all files of a folder, as far as the user's umask lets them read any new file.

    Libraries that write under a temporary name, safetensors among them, leave files that nobody but their owner can read:
    a colleague could not load the model, nor a container that runs as another user.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    for file in (x for x in (path, *path.rglob("*")) if x.is_file() and not x.is_symlink()):
        mode = file.stat().st_mode
        usual = mode | 0o666 & ~mask
        if usual != mode:
            with suppress(OSError):  # a disk that has no modes
                file.chmod(usual)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


#: A disk with less room [bytes] is full.
LEAST_FREE = 2**16
#: Temporary names are .part-PROCESS-NUMBER-MACHINE and the endings of the name to be.
_PART = re.compile(r"\.part-(\d+)-\d+-([0-9a-f]{8})")
#: A folder that is replaced is named .old-PROCESS-MACHINE-NAME for a moment.
_OLD = re.compile(r"\.old-(\d+)-([0-9a-f]{8})-(.+)")
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_NUMBERS = itertools.count()


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses, with its endings: writers read the format there."""
    endings = "".join(path.suffixes[-2:])
    return path.with_name(f".part-{os.getpid()}-{next(_NUMBERS)}-{_MACHINE}{endings}")


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process alone, below `parent`; afterwards it is gone, and `parent` too where it is empty."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    made = _temporary(parent / "scratch")
    made.mkdir(parents=True)
    try:
        yield made
    finally:
        remove(made)
        with suppress(OSError):  # another process works there, or removed it
            parent.rmdir()


@lru_cache(maxsize=64)
def _remove_abandoned(folder: Path) -> None:
    """Remove, once per folder, what processes of this machine left that are no more.

    That is their temporary files, and folders that they had replaced but not removed yet.
    """
    if os.name != "posix":  # elsewhere a process cannot be asked for without ending it
        return
    for path in folder.glob(".part-*"):
        if _is_abandoned(_PART.match(path.name)):
            with suppress(OSError):
                remove(path)
    for old in folder.glob(".old-*"):
        found = _OLD.match(old.name)
        if found and _is_abandoned(found) and old.with_name(found[3]).is_dir():
            with suppress(OSError):
                remove(old)


def _is_abandoned(name: re.Match[str] | None) -> bool:
    """Whether a temporary name is of a process of this machine that is no more."""
    return name is not None and name[2] == _MACHINE and not _is_running(int(name[1]))


def replaced(path: Path) -> list[Path]:
    """What was a folder `path` until a process, of any machine, that replaced it was killed."""
    olds = ((old, _OLD.match(old.name)) for old in sorted(path.parent.glob(".old-*")))
    return [old for old, found in olds if found and found[3] == path.name]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, but is another user's
        return True
    # A process that was killed answers until whoever started it asks for its end.
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:  # no Linux, or it ended meanwhile
        return not Path("/proc/self").exists()


def _flush(part: Path) -> None:
    """All bytes of a file or folder to the disk."""
    for file in (x for x in (part, *part.rglob("*")) if x.is_file()):
        with file.open("rb+") as opened:
            _to_disk(opened.fileno())


def _give_name(part: Path, path: Path) -> None:
    old = path.with_name(f".old-{os.getpid()}-{_MACHINE}-{path.name}")
    if path.is_dir():
        remove(old)  # of a process that was killed and had the number of this one
        path.rename(old)
    part.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            _to_disk(folder)
        finally:
            os.close(folder)
    if path.is_dir():
        # What a process that was killed in between had replaced is replaced now.
        for other in replaced(path):
            if other == old or _is_abandoned(_OLD.match(other.name)):
                with suppress(FileNotFoundError):  # another process has just removed it
                    remove(other)


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < LEAST_FREE
    return False


def _unwritable(path: Path, error: OSError) -> VCMError:
    return VCMError(
        f"{path} cannot be written ({error.strerror or error}): free the disk, or choose a folder that "
        "can be written to."
    )


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


def check_output(folder: Path, needed: int = 0) -> None:
    """Find out before the first step of work whether results can be written to a folder.

    Writes a byte to a folder of a temporary name in it, or in the nearest one above it that is there.

    Args:
        folder: Where results are to lie; need not exist yet.
        needed: Room that the results take [bytes].

    Raises:
        VCMError: The folder is a file or lies below one, cannot be made or written to, or its disk has
            less room than needed.
    """
    # Under a temporary name: a run that is killed here leaves no folder of that name.
    there = next(level for level in (folder, *folder.parents) if os.path.lexists(level))
    probe = _temporary(there / "probe")
    try:
        if not there.is_dir():
            what = "it is a file, or lies in one" if there.exists() else "it is a link to nothing"
            raise NotADirectoryError(errno.ENOTDIR, what)
        _remove_abandoned(there)
        try:
            made = probe / folder.relative_to(there)
            made.mkdir(parents=True)
            (made / "probe").write_bytes(b"0")
            free = shutil.disk_usage(made).free
        finally:
            remove(probe)
    except OSError as error:
        raise VCMError(
            f"Results cannot be written to {folder} ({error.strerror or error}): choose a "
            "folder that can be written to and has room."
        ) from error
    if free < needed:
        raise VCMError(
            f"The results take about {needed / 1e6:.0f} MB, but the disk of {folder} has {free / 1e6:.0f} "
            "MB left: free some room, or choose another folder."
        )


def is_occupied(folder: Path) -> bool:
    """Whether something lies in a folder, or is in its place; what killed runs left there is removed."""
    if not folder.is_dir():
        return os.path.lexists(folder)
    _remove_abandoned(folder)
    return any(folder.iterdir())


def refuse_to_replace(
    outputs: Iterable[Path],
    inputs: Iterable[Path],
    sidecar: Path | None = None,
    made_from: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> None:
    """See to it, before any work, that results replace neither their inputs nor other results.

    Args:
        outputs: Files that are going to be written.
        inputs: Files that are read. None of them is ever replaced, whatever `overwrite` says.
        sidecar: JSON that lies beside earlier results and tells what they were made from.
        made_from: Entries of the sidecar that say which inputs were used, such as their checksums. A
            result whose sidecar holds the same is this command's own, and may be written again, unless
            it is another file than the one that the sidecar lists.
        overwrite: Replace results made from other inputs, or from unknown ones.

    Raises:
        VCMError: A file that is to be written is an input, was made from something else, or was changed.
    """
    outputs, read = list(outputs), list(inputs)
    for output in outputs:
        for given in read:
            if output.exists() and given.exists() and output.samefile(given):
                raise VCMError(
                    f"{output} is an input of this command and would be overwritten by its result: "
                    "choose another name or folder for the result."
                )
    there = [output for output in outputs if output.exists()]
    if not there or overwrite:
        return
    if not (sidecar and made_from and _says(sidecar, made_from)):
        raise VCMError(
            f"{there[0]} exists and was not made from the inputs given now: choose another folder for the "
            "results, or allow them to overwrite it."
        )
    listed = listed_files(sidecar)
    for output in there:
        if output.name in listed and _is_another(output, sidecar, listed[output.name]):
            raise VCMError(
                f"{output} is not the file that {sidecar.name} lists, so it was changed or replaced since: "
                "choose another folder for the results, or allow them to overwrite it."
            )


def _says(sidecar: Path, entries: Mapping[str, object]) -> bool:
    """Whether a JSON file is there and holds these entries."""
    found = read_json(sidecar)
    wanted = json.loads(json.dumps(dict(entries)))
    return bool(found) and all(found.get(k) == v for k, v in wanted.items())


def _is_another(file: Path, sidecar: Path, checksum: str) -> bool:
    """Whether a file took the place of the one that a sidecar lists.

    An older one than the sidecar did not: a run that was killed has not come to replace it.
    """
    newer = file.stat().st_mtime_ns > sidecar.stat().st_mtime_ns
    return newer and file.is_file() and sha256(file) != checksum


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where there is none that holds an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor file of a model, by its path in the folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; of an image in two files, .hdr and .img, that of both, by either name."""
    digest = hashlib.sha256()
    for part in _parts(path):
        with part.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


#: Bytes that are read at a time.
_BLOCK = 1 << 20
#: The end of the name of the header of an image, or of its voxels, and what follows where it is compressed.
_OF_PAIR = re.compile(r"\.(hdr|img)(\.gz)?$")


def _parts(path: Path) -> list[Path]:
    """The header and the voxels of an image in two files, where both are there; else the file alone."""
    found = _OF_PAIR.search(path.name)
    if not found:
        return [path]
    start, compressed = path.name[: found.start()], found[2] or ""
    pair = [path.with_name(f"{start}.{end}{compressed}") for end in ("hdr", "img")]
    return pair if all(part.is_file() for part in pair) else [path]


#: Packages whose version can change a result.
_PACKAGES = ("torch", "diffusers", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "nilearn")


def versions() -> dict[str, str]:
    """Versions of vcm, Python and the packages that compute."""
    found = {"vcm": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def synthetic_mark() -> dict[str, Any]:
    """Says in the sidecar what the file is."""
    return {
        "Synthetic": True,
        "Warning": "Made by a generative model; not a scan of a person and not for diagnosis.",
    }
