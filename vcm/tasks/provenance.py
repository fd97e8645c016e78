"""What is written beside a result so that it can be repeated and never mistaken for a scan."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vcm import __version__

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
