"""One training step: losses, gradients, clipping and update; activation checkpointing; batches that fail."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.utils.checkpoint import checkpoint

from mdqe.config import MDQEConfig
from mdqe.distributed import rank, ranks
from mdqe.errors import InputError
from mdqe.losses.criterion import Criterion, build_criterion
from mdqe.model import MDQE
from mdqe.modeling.layers import warn_if_type_is_slow
from mdqe.targets import ClipTargets
from mdqe.training.run_state import load_state, random_state, save_state, set_random_state

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
RECOMPUTABLE_PARTS = ("backbone", "encoder", "decoder")
TARGET_FIELDS = ("labels", "ids", "masks", "boxes")

Batch = tuple[Tensor, list[ClipTargets]]
"""Frames (B, T, 3, H, W) uint8 and the targets of each clip."""


class StepResult(NamedTuple):
    """Measurements of one step."""

    losses: dict[str, float]
    """Weighted losses of this process by name, averaged over the parts of the batch."""
    grad_norm: float
    """The norm of all gradients together, before clipping."""


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient is NaN or infinite. The weights are those from before the step."""

    def __init__(self, problem: str, part: int, losses: dict[str, float], random: dict[str, Any]) -> None:
        super().__init__(problem)
        self.part = part
        """The index of the part of the batch."""
        self.losses = losses
        self.random = random
        """The random state before the losses of the part were computed."""


class ClipLosses(nn.Module):
    """The losses of a batch as a module, for DistributedDataParallel."""

    def __init__(self, model: MDQE, criterion: Criterion) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, frames: Tensor, targets: Sequence[ClipTargets]) -> dict[str, Tensor]:
        """As `MDQE.loss`."""
        return self.model.loss(frames, targets, criterion=self.criterion)


class TrainingStep:
    """Minimise the losses of a batch, which may consist of parts whose gradients are added.

    If several processes train together, each computes its share of the batch. The losses are divided by counts that
    are averaged over the processes, so the averaged gradients are those of the whole batch.

    A step waits for a GPU once, between backward pass and update, to check that losses and gradients are finite.
    Matching and sampling in the losses also wait.

    Args:
        model: in training mode, on its device.
        optimizer: of the model's parameters; the learning rates of its groups are the base rates.
        clip_norm: maximum norm of all gradients together; None: no limit.
        criterion: other losses or weights than those of the configuration.
        amp: "bf16" or "fp16" for autocast; fp16 uses an adaptive loss scale.

    Raises:
        ValueError: another precision, or a norm that is not positive.
    """

    def __init__(
        self,
        model: MDQE,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = 0.01,
        criterion: Criterion | None = None,
        amp: str | None = None,
    ) -> None:
        if amp is not None and amp not in AMP_TYPES:
            raise InputError(f"amp is {amp!r}, expected one of {', '.join(AMP_TYPES)}, or None")
        if clip_norm is not None and not clip_norm > 0:
            raise InputError(f"clip_norm is {clip_norm!r}, expected a positive number or None")
        self.model, self.optimizer, self.amp = model, optimizer, amp
        self.device = model.device
        if amp is not None and rank() == 0:
            warn_if_type_is_slow(self.device, AMP_TYPES[amp])
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        losses = ClipLosses(model, criterion or build_criterion(model.config))
        self.losses: nn.Module = losses
        if ranks() > 1:
            self.losses = DistributedDataParallel(
                losses,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=not model.config.frozen_batch_norm,
                gradient_as_bucket_view=True,
            )

    def __call__(self, parts: Sequence[Batch], rate: float = 1.0) -> StepResult:
        """Run one step.

        Args:
            parts: of this process' share of the batch.
            rate: learning rate, in units of the base rates.

        Raises:
            NonFiniteLossError: before anything but gradients and random state has changed.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        self.optimizer.zero_grad()
        random, terms = [], []
        for i, (frames, targets) in enumerate(parts):
            random.append(random_state())
            losses = self._backward(frames, targets, len(parts), last=i == len(parts) - 1)
            names, values = list(losses), torch.stack(list(losses.values()))
            terms.append(values.detach())
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_grad_norm_(parameters, self.clip_norm)
        *flat, norm = torch.cat([*terms, norm.to(terms[0])[None]]).tolist()  # waits for the device
        per_part = [dict(zip(names, flat[i : i + len(names)], strict=True)) for i in range(0, len(flat), len(names))]
        self._check(per_part, norm, random)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepResult({name: sum(part[name] for part in per_part) / len(parts) for name in names}, norm)

    def _backward(self, frames: Tensor, targets: Sequence[ClipTargets], parts: int, last: bool) -> dict[str, Tensor]:
        """Add the gradients of one part; return its losses."""
        frames = frames.to(self.device, non_blocking=True)
        targets = [target.to(self.device, non_blocking=True) for target in targets]
        # Processes exchange gradients only after the last part.
        with self.losses.no_sync() if isinstance(self.losses, DistributedDataParallel) and not last else nullcontext():
            with autocast(self.device, self.amp):
                losses = self.losses(frames, targets)
            self.scaler.scale(sum(losses.values()) / parts).backward()
        return losses

    def _check(self, parts: list[dict[str, float]], norm: float, random: list[dict[str, Any]]) -> None:
        for i, losses in enumerate(parts):
            wrong = ", ".join(f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value))
            if wrong:
                raise NonFiniteLossError(wrong, i, losses, random[i])
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # a scaler skips such steps and reduces its scale
            raise NonFiniteLossError(f"the norm of the gradients is {norm}", 0, parts[0], random[0])


def autocast(device: torch.device, amp: str | None) -> torch.autocast:
    """Return the context of a precision, "bf16", "fp16" or None."""
    return torch.autocast(device.type, AMP_TYPES.get(amp or ""), enabled=amp is not None)


def recompute_activations(model: MDQE, parts: Collection[str] = RECOMPUTABLE_PARTS) -> None:
    """Checkpoint activations: compute parts of a model twice in training, to store one layer of them at a time.

    Results, gradients, names of parameters and inference do not change. In the backbone this affects all stages but the
    last, in encoder and decoder all layers.

    Args:
        model: changed in place.
        parts: some of "backbone", "encoder" and "decoder", or one of them.

    Raises:
        ValueError: a part of another name, or a backbone that timm cannot recompute.
    """
    parts = (parts,) if isinstance(parts, str) else parts
    unknown = sorted(set(parts) - set(RECOMPUTABLE_PARTS))
    if unknown:
        raise InputError(
            f"parts to recompute are {', '.join(unknown)}; expected some of {', '.join(RECOMPUTABLE_PARTS)}"
        )
    if "backbone" in parts:
        recompute_backbone = getattr(model.backbone.body, "set_grad_checkpointing", None)
        if recompute_backbone is None:
            raise InputError(f"backbone {model.config.backbone!r} cannot be recomputed: timm does not support it")
        recompute_backbone(True)
    for part in {"encoder", "decoder"} & set(parts):
        for layer in getattr(model, part).layers:
            # On the instance, so that the class, the names of the parameters and the hooks do not change.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def save_bad_batch(
    path: Path, model: MDQE, batch: Batch, error: NonFiniteLossError, *, step: int, amp: str | None
) -> None:
    """Save everything that the losses of a batch depend on.

    Args:
        path: of the file.
        model: with the weights that gave the losses.
        batch: frames and targets of the part that failed.
        error: with the losses of the part and the random state before them.
        step: number of the step.
        amp: the precision, "bf16", "fp16" or None.
    """
    frames, targets = batch
    save_state(
        path,
        {
            "step": step,
            "losses": error.losses,
            "frames": frames.cpu(),
            "targets": [{name: getattr(target, name).cpu() for name in TARGET_FIELDS} for target in targets],
            "random": error.random,
            "amp": amp,
            "config": model.config.to_dict(),
            "model": model.state_dict(),
        },
    )


def replay(
    path: str | Path, *, device: str = "cpu", backward: bool = False, criterion: Criterion | None = None
) -> dict[str, float]:
    """Compute the losses of a saved batch again, with the same weights and random numbers.

    Args:
        path: RUN/bad_batch.pt.
        device: device to compute on.
        backward: also compute the gradients, under torch's anomaly detection. The error then names the first operation
            whose gradient is NaN.
        criterion: the criterion of the run, if it had its own.

    Raises:
        FileNotFoundError, ValueError: no such file, or another kind of file.
        RuntimeError: with `backward`, from the operation whose gradient is NaN.
    """
    saved = load_state(Path(path))
    model = MDQE(MDQEConfig.from_dict(saved["config"]))
    model.load_state_dict(saved["model"])
    model.to(device, saved["model"]["encoder.level_embed"].dtype).train()
    frames = saved["frames"].to(device)
    targets = [ClipTargets(*(target[name] for name in TARGET_FIELDS)) for target in saved["targets"]]
    set_random_state(saved["random"])
    with torch.autograd.set_detect_anomaly(backward, check_nan=True):
        with autocast(frames.device, saved["amp"]):
            losses = model.loss(frames, targets, criterion=criterion)
        if backward:
            torch.stack(list(losses.values())).sum().backward()
    return {name: float(loss.detach()) for name, loss in losses.items()}
