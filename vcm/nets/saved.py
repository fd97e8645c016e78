"""A network that is saved as diffusers does it: one folder of weights and of what they are made with.

Knows files only through diffusers. Folders name the class of a network by its module in vcm.nets, so
neither may be renamed.
"""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin


class SavedNetwork(ModelMixin, ConfigMixin):
    """A torch module with save_pretrained and from_pretrained.

    Attributes:
        config: What its constructor was given, by name, where `register_to_config` marks it.
    """

    config: Any
    config_name: str = ModelMixin.config_name  # type: ignore[assignment]
