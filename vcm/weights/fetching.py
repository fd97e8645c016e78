"""Fetch: the files of a published model from the model hub, licences first.

Downloads go through huggingface_hub: they resume, are kept in its cache, work offline from there
(HF_HUB_OFFLINE=1) and follow a mirror (HF_ENDPOINT). Nothing is fetched but by calling `fetch`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from vcm.errors import VCMError
from vcm.files import check_output
from vcm.weights.cards import Card, CardFile, describe_file, load_card

#: Published sizes are rounded.
_SIZE_TOLERANCE = 0.02


class LicenceNotAccepted(VCMError):
    """A licence that is not permissive has to be read and accepted first."""


def fetch(
    card: str | Card,
    out: Path | None,
    accept_license: bool,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Path]:
    """Fetch the files of a published model.

    Args:
        card: The model's card, or its name.
        out: Folder for the files; None: the hub's own cache.
        accept_license: The licences of the files were read and are accepted.
        report: Called with a line for each file, before anything is fetched, and for each part that lies
            on no known hub and is left out.

    Returns:
        Path by part.

    Raises:
        LicenceNotAccepted: Nothing is fetched then.
        VCMError: The model is embedded, a download fails, or a file has another size or MD5 than its
            card says.
    """
    card = load_card(card) if isinstance(card, str) else card
    if card.embedded:
        raise VCMError(
            f"{card.name} travels with the package: use it by name, there is nothing to fetch."
        )
    for part, file in card.files.items():
        report(f"{part}: {describe_file(file)}")
    placed = {part: file for part, file in card.files.items() if file.repo and file.path}
    licences = {f.licence or "unknown" for f in placed.values() if f.needs_acceptance}
    if licences and not accept_license:
        raise LicenceNotAccepted(
            f"{card.name} is under {' and '.join(sorted(licences))}: read it, then accept it."
        )
    if out is not None:
        check_output(out, int(sum(1e6 * (file.megabytes or 0) for file in placed.values())))
    fetched = {part: _checked(_download(file, out), file) for part, file in placed.items()}
    for part in card.files.keys() - placed.keys():
        report(f"{part}: get its file yourself, and give its path to vcm weights import.")
    return fetched


def _download(file: CardFile, out: Path | None) -> Path:
    """The one place that reaches the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    try:
        return Path(hf_hub_download(str(file.repo), str(file.path), local_dir=out))
    except GatedRepoError as error:
        raise VCMError(
            f"{file.repo} is given to those who accepted its licence on its page: do that, then log in "
            "with hf auth login and fetch again."
        ) from error
    except (OSError, EntryNotFoundError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VCMError(
            f"{file.path} of {file.repo} could not be fetched ({reason}): check the connection, set "
            "HF_ENDPOINT for a mirror, or get the file elsewhere and give it to vcm weights import."
        ) from error


def _checked(path: Path, file: CardFile) -> Path:
    megabytes = path.stat().st_size / 1e6
    known = file.megabytes
    if known is not None and abs(megabytes - known) > max(_SIZE_TOLERANCE * known, 0.1):
        raise VCMError(
            f"{path} has {megabytes:.1f} MB, but {known:g} were published: delete it and fetch again."
        )
    if file.md5 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(
                stream, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        if found != file.md5:
            raise VCMError(
                f"{path} has the MD5 {found}, but {file.md5} was published: delete it and fetch again, or, "
                "if its authors exchanged it, import it by path; a strict load tells whether it fits."
            )
    return path
