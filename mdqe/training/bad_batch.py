"""The batch on which training stopped because a loss was not finite: saved whole, to be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdqe.config import MDQEConfig
from mdqe.losses.criterion import Criterion
from mdqe.model import MDQE
from mdqe.targets import ClipTargets
from mdqe.training.run_state import load_state, save_state, set_random_state
from mdqe.training.step import autocast

FIELDS = ("labels", "ids", "masks", "boxes")


def save_bad_batch(
    path: Path,
    model: MDQE,
    frames: Tensor,
    targets: Sequence[ClipTargets],
    *,
    step: int,
    losses: dict[str, float],
    random: dict[str, Any],
    amp: str | None,
) -> None:
    """Write all that the losses of a batch depend on.

    Args:
        path: of the file.
        model: with the weights that gave the losses.
        frames, targets: of the batch.
        step, losses: which step it is and what came of it.
        random: `random_state()` before the losses were computed.
        amp: the precision, "bf16", "fp16" or None.
    """
    save_state(
        path,
        {
            "step": step,
            "losses": losses,
            "frames": frames.cpu(),
            "targets": [{name: getattr(target, name).cpu() for name in FIELDS} for target in targets],
            "random": random,
            "amp": amp,
            "config": model.config.to_dict(),
            "model": model.state_dict(),
        },
    )


def replay(
    path: str | Path, *, device: str = "cpu", backward: bool = False, criterion: Criterion | None = None
) -> dict[str, float]:
    """Compute the losses of a saved batch again, with its weights and its random numbers.

    Args:
        path: RUN/bad_batch.pt.
        device: where to.
        backward: the gradients too, under torch's anomaly detection: the error then names the operation that first
            gave a NaN.
        criterion: the run's own, if it had one.

    Raises:
        FileNotFoundError, ValueError: no such file, or another one.
        RuntimeError: with `backward`, from the operation whose gradient is NaN.
    """
    saved = load_state(Path(path))
    model = MDQE(MDQEConfig.from_dict(saved["config"]))
    model.load_state_dict(saved["model"])
    model.to(device, saved["model"]["encoder.level_embed"].dtype).train()
    frames = saved["frames"].to(device)
    targets = [ClipTargets(*(target[name] for name in FIELDS)) for target in saved["targets"]]
    set_random_state(saved["random"])
    with torch.autograd.set_detect_anomaly(backward, check_nan=True):
        with autocast(frames.device, saved["amp"]):
            losses = model.loss(frames, targets, criterion=criterion)
        if backward:
            torch.stack(list(losses.values())).sum().backward()
    return {name: float(loss.detach()) for name, loss in losses.items()}
