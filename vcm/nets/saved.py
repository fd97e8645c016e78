"""A network that is saved as diffusers does it: one folder of weights and of what they are made with.

Knows files only through diffusers. Folders name the class of a network by its module in vcm.nets, so
neither may be renamed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models import modeling_utils

from vcm.errors import VCMError
from vcm.files import give_usual_mode
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[Any] | None, **options: Any
    ) -> Any:
        """As diffusers has it, but of this class alone and with every weight.

        diffusers loads what fits of another network, and leaves the rest at random.

        Args:
            pretrained_model_name_or_path: Folder that holds the network.
            options: As diffusers has them; `output_loading_info` returns what was loaded beside the network.

        Raises:
            VCMError: A network of another class lies there, or weights are missing or left over.
        """
        folder: Any = pretrained_model_name_or_path
        asked = options.pop("output_loading_info", False)
        own = {k: v for k, v in options.items() if k in ("subfolder", "local_files_only")}
        card: Any = cls.load_config(folder, **own)
        name = card.get("_class_name", cls.__name__)
        if name != cls.__name__:
            raise VCMError(f"{folder} holds a {name}, not a {cls.__name__}: give a folder of one.")
        found: Any = super().from_pretrained(folder, output_loading_info=True, **options)
        net, info = found
        wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
        if wrong:
            raise VCMError(
                f"{folder} lacks weights of a {cls.__name__}, or has others ({wrong[0]}, {len(wrong)} in all): its "
                "config.json and its weights do not belong together, so copy it again."
            )
        return (net, info) if asked else net

    def save_pretrained(
        self, save_directory: str | os.PathLike[Any], *args: Any, **options: Any
    ) -> None:
        """As diffusers has it, with files that whoever may read new files of this user can read."""
        super().save_pretrained(save_directory, *args, **options)
        give_usual_mode(Path(save_directory))

    def _fix_state_dict_keys_on_load(self, state_dict: Any) -> None:
        """What diffusers calls with the tensors of a file before it loads them: weights in 8 bits become float32."""
        super()._fix_state_dict_keys_on_load(state_dict)
        restore(state_dict)
