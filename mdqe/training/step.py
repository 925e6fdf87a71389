"""One training step: losses, gradients, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from mdqe.distributed import ranks
from mdqe.errors import InputError
from mdqe.losses.criterion import Criterion, configured_criterion
from mdqe.model import MDQE
from mdqe.targets import ClipTargets
from mdqe.training.run_state import random_state

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Batch = tuple[Tensor, list[ClipTargets]]
"""Frames (B, T, 3, H, W) uint8 and the targets of each clip."""


class StepResult(NamedTuple):
    """What a step measured."""

    losses: dict[str, float]
    """Weighted losses of this process by name, averaged over the parts of the batch."""
    grad_norm: float
    """Of all gradients together, before clipping."""


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient is NaN or infinite. The weights are those from before the step."""

    def __init__(self, problem: str, part: int, losses: dict[str, float], random: dict[str, Any]) -> None:
        super().__init__(problem)
        self.part = part
        """Which part of the batch it is."""
        self.losses = losses
        self.random = random
        """The random state before that part's losses."""


class ClipLosses(nn.Module):
    """The losses of a batch as a module: what DistributedDataParallel wraps."""

    def __init__(self, model: MDQE, criterion: Criterion) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, frames: Tensor, targets: Sequence[ClipTargets]) -> dict[str, Tensor]:
        """As `MDQE.loss`."""
        return self.model.loss(frames, targets, criterion=self.criterion)


class TrainingStep:
    """Lowers the losses of a batch, which may come in parts whose gradients add up.

    Where several processes train together, each computes its share of the batch; gradients are those of the whole
    batch, since the losses are divided by counts that are averaged over the processes.

    It waits for a GPU once, between backward pass and update, to look whether losses and gradients are finite; what
    matching and sampling wait for inside the losses comes on top.

    Args:
        model: in training mode, on its device.
        optimizer: of its parameters; its groups' rates are the base rates.
        clip_norm: largest norm of all gradients together; None: any.
        criterion: other losses or weights than the configured ones.
        amp: "bf16" or "fp16" for autocast; fp16 with a loss scale that adapts.

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
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        losses = ClipLosses(model, criterion or configured_criterion(model.config))
        self.losses: nn.Module = losses
        if ranks() > 1:
            self.losses = DistributedDataParallel(
                losses,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=not model.config.frozen_batch_norm,
                gradient_as_bucket_view=True,
            )

    def __call__(self, parts: Sequence[Batch], rate: float = 1.0) -> StepResult:
        """Do a step.

        Args:
            parts: of this process' share of the batch.
            rate: learning rate in units of the base rates.

        Raises:
            NonFiniteLossError: before anything is changed but gradients and random state.
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
        *flat, norm = torch.cat([*terms, norm.to(terms[0])[None]]).tolist()  # the one wait
        per_part = [dict(zip(names, flat[i : i + len(names)], strict=True)) for i in range(0, len(flat), len(names))]
        self._check(per_part, norm, random)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepResult({name: sum(part[name] for part in per_part) / len(parts) for name in names}, norm)

    def _backward(self, frames: Tensor, targets: Sequence[ClipTargets], parts: int, last: bool) -> dict[str, Tensor]:
        """Add the gradients of one part; its losses."""
        frames = frames.to(self.device, non_blocking=True)
        targets = [target.to(self.device, non_blocking=True) for target in targets]
        # Processes add up once a step.
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
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # a scaler skips such steps and scales less
            raise NonFiniteLossError(f"the norm of the gradients is {norm}", 0, parts[0], random[0])


def autocast(device: torch.device, amp: str | None) -> torch.autocast:
    """Mixed precision, or none."""
    return torch.autocast(device.type, AMP_TYPES.get(amp or ""), enabled=amp is not None)
