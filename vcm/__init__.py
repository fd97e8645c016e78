"""Steer a frozen 3D latent diffusion model of brain MRI with a Volumetric Conditioning Module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcm.embedded import example_condition
    from vcm.nets.vcm import VolumetricConditioningModule
    from vcm.pipeline import VCMPipeline
    from vcm.weights.load import load_pipeline

__version__ = "0.1.0"
__all__ = [
    "VCMPipeline",
    "VolumetricConditioningModule",
    "__version__",
    "example_condition",
    "load_pipeline",
]

_HOMES = {
    "VCMPipeline": "vcm.pipeline",
    "VolumetricConditioningModule": "vcm.nets.vcm",
    "example_condition": "vcm.embedded",
    "load_pipeline": "vcm.weights.load",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `vcm --help` loads no networks."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vcm' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
