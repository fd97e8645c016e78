"""What a user may choose for `vcm evaluate`. Knows names and defaults; checks nothing, loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Evaluation:
    """Configuration of `vcm evaluate`.

    model, segmenter     embedded ones by name, or folders
    split                whose label maps are the conditions; choose settings on another than test
    temperature          None: the model's own
    limit                the first test subjects only; None: all that have a label map
    covariate_samples    samples at each age and arm
    """

    data: list[str] = field(default_factory=list)
    model: str = ""
    segmenter: str = ""
    out: str = "runs/evaluation"
    split: str = "test"
    steps: int = 50
    scheduler: str = "ddim"
    temperature: float | None = None
    seed: int = 0
    limit: int | None = None
    covariate_samples: int = 8
