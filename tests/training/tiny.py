"""A training run whose steps take a fraction of a second; also a program, for tests that kill it."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from mdqe import MDQE, MDQEConfig
from mdqe.data.loader import MixedClips
from mdqe.data.synthetic import SyntheticClips
from mdqe.training.optimizer import StepDecay, adamw
from mdqe.training.trainer import Trainer

OPTIONS: dict[str, Any] = {
    "backbone": "mobilenetv3_small_050", "hidden_dim": 32, "num_heads": 4, "num_points": 2, "encoder_layers": 1,
    "decoder_layers": 1, "grid_size": 4, "embed_dim": 8, "num_classes": 6, "clip_length": 2, "test_clip_length": 2,
    "window_length": 4, "test_shorter_edge": None,
}  # fmt: skip


def model(**overrides: Any) -> MDQE:
    torch.manual_seed(0)
    return MDQE(MDQEConfig(**{**OPTIONS, **overrides}))


def clips(size: tuple[int, int] = (64, 96)) -> MixedClips:
    return MixedClips([SyntheticClips(frames=2, size=size)], seed=1)


def trainer(folder: Path, steps: int = 6, config: dict[str, Any] | None = None, **overrides: Any) -> Trainer:
    made = model(**(config or {}))
    options = {"steps": steps, "batch": 2, "log_every": 2, "save_every": 2, "clip_norm": 1.0, **overrides}
    optimizer = options.pop("optimizer", None) or adamw(made, 1e-3)
    return Trainer(made, clips(), folder, optimizer, StepDecay((4,), warmup_steps=1), **options)


def die_at(run: Trainer, step: int) -> None:
    """Kill the process in the middle of a step."""

    def die(module: Any, arguments: Any) -> None:
        if run.done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run.model.decoder.register_forward_pre_hook(die)


def fail_at(run: Trainer, step: int) -> None:
    """Interrupt the process in the middle of a step."""

    def interrupt(module: Any, arguments: Any) -> None:
        if run.done == step:
            raise KeyboardInterrupt

    run.model.decoder.register_forward_pre_hook(interrupt)


if __name__ == "__main__":  # python tiny.py FOLDER STEP: train until the process is killed in that step
    torch.set_num_threads(1)
    killed = trainer(Path(sys.argv[1]), average_decay=0.9)
    die_at(killed, int(sys.argv[2]))
    killed.train()
