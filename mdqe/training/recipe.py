"""The recipe of each preset: settings of the optimizer and sizes of frames (paper Sec. 4.1).

The numbers are those of the released code, which has more of them than the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from mdqe.errors import InputError

_EDGES = tuple(range(320, 513, 32))


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. The defaults fine-tune a ResNet-50 model on videos."""

    steps: int = 12_000
    batch: int = 16
    """Clips per step, of all processes together."""
    learning_rate: float = 1e-4
    decay_steps: Sequence[int] = (10_000,)
    """At each of these steps the learning rate falls to a tenth."""
    weight_decay: float = 1e-4
    backbone_multiplier: float = 0.1
    warmup_steps: int = 0
    """The released code has ten warm-up steps at the full rate, which is no warm-up."""
    clip_norm: float = 0.01
    """Maximum norm of all gradients together."""
    frame_range: int = 10
    """Maximum distance of the frames of a clip from its reference frame, in frames."""
    video: Mapping[str, Any] = field(
        default_factory=lambda: {
            "shorter_edges": _EDGES, "longer_edge": 800, "crop_type": "relative_range", "crop_size": (0.8, 0.8)
        }
    )  # fmt: skip
    """Arguments of `ClipAugmentation` for clips of videos."""
    image: Mapping[str, Any] = field(
        default_factory=lambda: {
            "shorter_edges": _EDGES, "longer_edge": 800, "crop_type": "absolute_range", "crop_size": (384, 600),
            "rotation": 15,
        }
    )  # fmt: skip
    """Arguments of `ClipAugmentation` for each frame of a pseudo-clip of an image."""

    @classmethod
    def of(cls, preset: str | None) -> Recipe:
        """Return the recipe of a preset, or the default for None.

        Raises:
            ValueError: an unknown preset.
        """
        if preset is None:
            return cls()
        known = json.loads(files("mdqe.training").joinpath("recipes.json").read_text())
        if preset not in known:
            raise InputError(f"unknown preset {preset!r}, expected one of {', '.join(known)}")
        return cls(**known[preset])

    def decay_shares(self) -> tuple[float, ...]:
        """Return the decay steps as shares of all steps, for a run of another length."""
        return tuple(step / self.steps for step in self.decay_steps)
