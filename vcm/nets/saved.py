"""A network that is saved as diffusers does it: one folder of weights and of what they are made with.

Knows files only through diffusers. Folders name the class of a network by its module in vcm.nets, so
neither may be renamed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models import modeling_utils

from vcm.nets.rounding import restore


# Loading a folder, diffusers looks for this name in the module of each network's class, and takes the
# class for one that it can load if it derives from what it finds.
class ModelMixin(modeling_utils.ModelMixin, ConfigMixin):
    """A torch module with save_pretrained and from_pretrained.

    Attributes:
        config: What its constructor was given, by name, where `register_to_config` marks it.
    """

    config: Any
    if TYPE_CHECKING:
        # As torch has it; diffusers wraps it without types.
        to: Callable[..., Any]  # type: ignore[assignment]
    config_name: str = modeling_utils.ModelMixin.config_name  # type: ignore[assignment]

    def _fix_state_dict_keys_on_load(self, state_dict: Any) -> None:
        """What diffusers calls with the tensors of a file before it loads them: weights in 8 bits become float32."""
        super()._fix_state_dict_keys_on_load(state_dict)
        restore(state_dict)
