"""Train a small MDQE from scratch on synthetic scenes, on a CPU: the model that `mdqe demo` runs.

    python examples/train_tiny.py runs/tiny                  # continues a run that was interrupted
    mdqe demo --model runs/tiny/model

A plain loop over the library's parts: data, losses, AdamW. Clips are numbered, so a resumed run sees those that the
interrupted one had not.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

from mdqe import MDQE, MDQEConfig
from mdqe.data.synthetic import CATEGORIES, SyntheticClips

CONFIG = MDQEConfig(
    backbone="resnet10t",
    frozen_batch_norm=False,
    hidden_dim=128,
    num_heads=8,
    encoder_layers=2,
    decoder_layers=2,
    dropout=0.0,
    grid_size=8,
    num_classes=len(CATEGORIES),
    categories=CATEGORIES,
    clip_length=3,
    test_clip_length=3,
    window_length=24,
    score_threshold=0.1,
    test_shorter_edge=128,
)
SEED = 1  # of the scenes


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then constant, a tenth after 80 % and a hundredth after 95 %."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1.0 if step < 0.8 * steps else 0.1 if step < 0.95 * steps else 0.01)


def collate(items: list) -> tuple[torch.Tensor, list]:
    """Clips of one size as a batch: frames (B, T, 3, H, W) and B targets."""
    frames, targets = zip(*items, strict=True)
    return torch.stack(frames), list(targets)


def save(path: Path, **state: object) -> None:
    """Write whole or not at all."""
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def main() -> None:
    """Train, saving every 100 steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: state.pt, log.csv and the finished model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=4, help="clips a step (4)")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (5e-4)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("H", "W"))
    parser.add_argument("--difficulty", default="standard")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()

    options.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = MDQE(CONFIG).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.05)
    step, state = 0, options.run / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        print(f"continuing after step {step}")

    clips = SyntheticClips(
        options.steps * options.batch, SEED, frames=CONFIG.clip_length, size=tuple(options.size),
        difficulty=options.difficulty,
    )  # fmt: skip
    rest = Subset(clips, range(step * options.batch, len(clips)))
    loader = DataLoader(rest, options.batch, num_workers=options.workers, collate_fn=collate, drop_last=True)
    log = csv.writer((options.run / "log.csv").open("a", buffering=1))
    begin, sums = time.perf_counter(), {}
    for frames, targets in loader:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        losses = model.loss(frames, targets)
        loss = sum(losses.values())
        if not loss.isfinite():
            raise FloatingPointError(f"loss is {loss.item()} at step {step}: {losses}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        for name, value in {"total": loss.detach(), "norm": norm, **losses}.items():
            if name.rsplit("_", 1)[-1].isdigit():
                continue  # of earlier layers
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if step % 20 == 0:
            seconds = (time.perf_counter() - begin) / 20
            row = {name: round(value / 20, 4) for name, value in sums.items()}
            log.writerow([step, round(seconds, 3), *row.values()])
            print(f"step {step}/{options.steps}  {seconds:.2f} s  " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))
            begin, sums = time.perf_counter(), {}
        if step % 100 == 0 or step == options.steps:
            save(state, model=model.state_dict(), optimizer=optimizer.state_dict(), step=step)
            model.save_pretrained(options.run / "model")


if __name__ == "__main__":
    main()
