"""How the published models were trained: the optimizer's settings and the sizes of frames, of each preset."""

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
    """Settings of a run; the defaults are those of fine-tuning a ResNet-50 on videos."""

    steps: int = 12_000
    batch: int = 16
    """Clips in a step, of all processes together."""
    learning_rate: float = 1e-4
    decay_steps: Sequence[int] = (10_000,)
    """From each of these on the rate is a tenth of what it was."""
    weight_decay: float = 1e-4
    backbone_multiplier: float = 0.1
    warmup_steps: int = 0
    """The released code names ten, at the full rate: none."""
    clip_norm: float = 0.01
    """Largest norm of all gradients together."""
    frame_range: int = 10
    """How far from a clip's reference frame the others may lie."""
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
    """The same for each frame of a pseudo-clip of an image."""

    @classmethod
    def of(cls, preset: str | None) -> Recipe:
        """A preset's; the default one where there is none.

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
        """The decay steps as shares of all steps, for a run of another length."""
        return tuple(step / self.steps for step in self.decay_steps)
