"""Times the parts of a training step in float32 and bfloat16, for a small model on the synthetic set.

    python examples/benchmarks/training_speed.py                    # ResNet-18, 192 channels, 4 clips of 3 frames
    python examples/benchmarks/training_speed.py --steps 30 --device cuda
    OMP_NUM_THREADS=1 python examples/benchmarks/training_speed.py --cpu-seconds   # on a busy machine

The step is the trainer's (`mdqe.training.step.TrainingStep`), with AdamW and gradients clipped to a norm of 1. Steps in
the two precisions alternate, with new clips each time. The time for drawing the clips is not included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mdqe import MDQE, MDQEConfig
from mdqe.data import CATEGORIES, SyntheticClips, collate
from mdqe.training import adamw
from mdqe.training.step import Batch, TrainingStep

PARTS = ("forward", "losses", "backward", "clipping and AdamW")
WARM_UP = 2


def reference_config() -> MDQEConfig:
    """A model that can be trained on two cores."""
    return MDQEConfig(
        backbone="resnet18",
        hidden_dim=192,
        grid_size=8,
        encoder_layers=2,
        decoder_layers=2,
        clip_length=3,
        test_clip_length=3,
        num_classes=len(CATEGORIES),
        test_shorter_edge=None,
    )


class TimedStep:
    """A training step that records the seconds of its parts."""

    def __init__(self, amp: str | None, device: torch.device, now: Callable[[], float]) -> None:
        torch.manual_seed(0)
        model = MDQE(reference_config()).to(device).train()
        self.device, self.now = device, now
        self.step = TrainingStep(model, adamw(model, 1e-4), clip_norm=1.0, amp=amp)
        self.times: dict[str, list[float]] = {name: [] for name in ("forward", "losses", "gradients", "step")}
        self._watch(model, "forward")
        self._watch(self.step.losses.criterion, "losses")
        self.step._backward = self._timed("gradients", self.step._backward)

    def __call__(self, batch: Batch) -> None:
        self._timed("step", self.step)([batch])

    def seconds(self) -> dict[str, float]:
        """Medians of the step and of its parts."""
        forward, losses, gradients, step = (self.times[n][WARM_UP:] for n in ("forward", "losses", "gradients", "step"))
        rows = zip(forward, losses, gradients, step, strict=True)
        parts = zip(*((f, c, g - f - c, s - g) for f, c, g, s in rows), strict=True)
        return {name: statistics.median(part) for name, part in zip((*PARTS, "step"), (*parts, step), strict=True)}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.now()

    def _timed(self, name: str, part: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = self._now()
            result = part(*args, **options)
            self.times[name].append(self._now() - start)
            return result

        return run

    def _watch(self, module: nn.Module, name: str) -> None:
        module.forward = self._timed(name, module.forward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps in each precision (default: 12)")
    parser.add_argument("--clips", type=int, default=4, help="clips in a step (default: 4)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--cpu-seconds", action="store_true", help="measure CPU time instead of wall time")
    args = parser.parse_args()
    now = time.process_time if args.cpu_seconds else time.perf_counter
    device = torch.device(args.device)
    source = SyntheticClips(seed=1, frames=3, size=(128, 192))
    generator = torch.Generator().manual_seed(0)
    steps = {name: TimedStep(amp, device, now) for name, amp in (("float32", None), ("bfloat16", "bf16"))}
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads{load}", flush=True)
    for i in range(WARM_UP + args.steps):
        batch = collate([source.clip(i * args.clips + k, generator) for k in range(args.clips)])
        for step in steps.values():
            step(batch)
    seconds = {name: step.seconds() for name, step in steps.items()}
    print(f"\n| part | {' | '.join(f'{name}, seconds' for name in steps)} |\n|---|{'---|' * len(steps)}")
    for part in (*PARTS, "step"):
        print(f"| {part} | {' | '.join(f'{of[part]:.3f}' for of in seconds.values())} |")


if __name__ == "__main__":
    main()
