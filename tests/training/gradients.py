"""python gradients.py FILE: the gradients of one step, computed by the processes that the environment defines."""

import os
import sys
from pathlib import Path

import tiny
import torch
from torch import Tensor, distributed

from mdqe.data.loader import StepSampler, collate
from mdqe.distributed import process_group, rank, ranks
from mdqe.targets import ClipTargets
from mdqe.training.step import StepResult, TrainingStep

Clip = tuple[Tensor, ClipTargets]
BATCH = 4


def batch() -> list[Clip]:
    """Two clips with few objects and two with many."""
    drawn = sorted((tiny.clips()[n] for n in range(12)), key=lambda clip: len(clip[1].labels))
    return drawn[:2] + drawn[-2:]


def gradients(accumulate: int = 1, amp: str | None = None, **config: object) -> tuple[dict[str, Tensor], StepResult]:
    """Gradients of this process' share of a batch whose halves have different numbers of objects."""
    torch.randperm = torch.arange  # random subsets differ between processes: use the first candidates
    model = tiny.model(dropout=0.0, **config).train()
    if amp is None:
        model.double()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), 0.0), clip_norm=None, amp=amp)
    clips = batch()
    sampler = StepSampler(BATCH // (ranks() * accumulate), 0, accumulate, rank=rank(), ranks=ranks())
    result = step([collate([clips[n] for n in numbers]) for numbers in sampler])
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, result


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu"):
        assert distributed.get_backend() == "gloo" and os.environ["WORLD_SIZE"] == str(ranks())
        found, result = gradients()
        loss = torch.tensor(sum(result.losses.values()), dtype=torch.float64)
        distributed.all_reduce(loss)
        if rank() == 0:
            torch.save({"gradients": found, "loss": loss / ranks(), "norm": result.grad_norm}, Path(sys.argv[1]))
