"""Times a training step and the parts of it outside the network: targets, matching, losses, optimizer.

    python examples/benchmarks/training_step.py                     # r50_ovis_360, 4 frames of 360×640, 20 objects
    python examples/benchmarks/training_step.py --device cuda --clips 4
    OMP_NUM_THREADS=1 python examples/benchmarks/training_step.py --cpu-seconds   # on a busy machine

One run has two cases: the queries of random weights, of which each object is matched with two, and queries as from a
trained model, ten well-placed ones per object, of which more are matched. The cost of the network is the same in both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import box_convert

from mdqe import MDQE, MDQEConfig
from mdqe.losses import Criterion
from mdqe.modeling.network import ClipOutput
from mdqe.modeling.preprocess import padded_size
from mdqe.targets import ClipTargets

FRAMES, HEIGHT, WIDTH = 4, 360, 640


def make_targets(count: int, seed: int) -> ClipTargets:
    """Ellipses that drift over the frame. Their masks may overlap."""
    g = torch.Generator().manual_seed(seed)
    radius = 0.06 + 0.1 * torch.rand(count, 1, 2, generator=g)
    drift = (torch.rand(count, 1, 2, generator=g) - 0.5) * 0.04
    center = 0.15 + 0.7 * torch.rand(count, 1, 2, generator=g) + drift * torch.arange(FRAMES)[:, None]
    y, x = (torch.arange(HEIGHT) + 0.5) / HEIGHT, (torch.arange(WIDTH) + 0.5) / WIDTH
    across = ((x - center[..., :1]) / radius[..., :1]).square()  # (K, T, W)
    down = ((y - center[..., 1:]) / radius[..., 1:]).square()  # (K, T, H)
    masks = across[..., None, :] + down[..., :, None] < 1
    boxes = torch.cat([center - radius, center + radius], -1).clamp(0, 1)
    labels = torch.randint(0, 25, (count,), generator=g)
    ids = torch.arange(count)[:, None].repeat(1, FRAMES)
    return ClipTargets(labels, ids, masks, boxes * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))


def with_good_boxes(output: ClipOutput, targets: list[ClipTargets]) -> ClipOutput:
    """Return the output with ten queries moved onto every object."""
    padded_height, padded_width = padded_size((HEIGHT, WIDTH))
    truth = torch.stack([t.boxes for t in targets]).transpose(1, 2)  # (B, T, K, 4)
    truth = box_convert(truth / truth.new_tensor([padded_width, padded_height] * 2), "xyxy", "cxcywh")
    layers = []
    for layer in output.layers:
        moved = layer.boxes.clone()
        count = min(10 * truth.shape[2], moved.shape[2])
        chosen = truth[:, :, torch.arange(count) % truth.shape[2]].to(moved)
        moved[:, :, :count] = (chosen + 0.005 * torch.randn_like(chosen)).clamp(0.01, 0.99)
        layers.append(layer._replace(boxes=moved))
    return output._replace(layers=layers)


def detach_outputs(output: ClipOutput) -> tuple[ClipOutput, list[Tensor], list[Tensor]]:
    """Return a detached copy, its tensors that receive gradients of the losses, and the original tensors."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def detach(x: Tensor) -> Tensor:
        copy = x.detach().requires_grad_()
        pairs.append((copy, x))
        return copy

    layers = [
        p._replace(class_logits=detach(p[0]), mask_coefficients=detach(p[1]), boxes=detach(p[2])) for p in output.layers
    ]
    features = detach(output.mask_features)
    queries = output.queries._replace(
        embeddings=detach(output.queries.embeddings),
        activation=detach(output.queries.activation),
        content=output.queries.content.detach(),
    )
    copies, originals = (list(x) for x in zip(*pairs, strict=True))
    return ClipOutput(layers, features, queries), copies, originals


class Clock:
    """Records the times of named parts over several steps."""

    def __init__(self, device: torch.device, now: Callable[[], float]) -> None:
        self.device = device
        self.now = now
        self.times: dict[str, list[float]] = {}

    def __call__(self, name: str, part: Callable[[], object]) -> object:
        """Run a part and record its time."""
        self._wait()
        start = self.now()
        result = part()
        self._wait()
        self.times.setdefault(name, []).append(self.now() - start)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def __getitem__(self, name: str) -> float:
        return statistics.median(self.times[name])


def measure_losses(
    clock: Clock, case: str, output: ClipOutput, targets: list[ClipTargets]
) -> tuple[list[Tensor], list[Tensor], float]:
    """Time the losses. Returns the outputs, their gradients, and the matches per object and layer."""
    criterion = Criterion()
    detached, copies, originals = detach_outputs(output)
    scaled = clock(f"{case}: targets resized", lambda: criterion.scale(detached, targets))
    owner = clock(f"{case}: matching", lambda: criterion.matcher(detached.layers, detached.mask_features, scaled))
    with torch.no_grad():
        clock(f"{case}: initialisation", lambda: criterion.query_init_losses(detached.queries, scaled))
    losses = clock(f"{case}: all of the forward", lambda: criterion(detached, targets))
    total = sum(losses.values())
    gradients = clock(f"{case}: backward", lambda: torch.autograd.grad(total, copies))
    matches = float((owner >= 0).sum()) / sum(len(t.labels) for t in targets) / len(output.layers)
    return originals, list(gradients), matches


def step(
    model: MDQE, optimizer: torch.optim.Optimizer, frames: Tensor, targets: list[ClipTargets], clock: Clock
) -> dict[str, float]:
    """Run one training step and time its parts. Returns the matches per object for both cases."""
    optimizer.zero_grad()
    window = model.config.association_window
    output = clock("network forward", lambda: model(frames, [(HEIGHT, WIDTH)] * len(targets), window))
    matches = {}
    for case, case_output in (("trained", with_good_boxes(output, targets)), ("untrained", output)):
        originals, gradients, matches[case] = measure_losses(clock, case, case_output, targets)
    clock("network backward", lambda: torch.autograd.backward(originals, gradients))

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()

    clock("clipping and AdamW", update)
    return matches


def report(clock: Clock, matches: dict[str, float]) -> None:
    """Print the tables."""
    network = clock["network forward"] + clock["network backward"]
    rest = clock["clipping and AdamW"]
    for case in ("untrained", "trained"):
        forward, backward = clock[f"{case}: all of the forward"], clock[f"{case}: backward"]
        parts = {
            "network forward": clock["network forward"],
            "network backward": clock["network backward"],
            "targets resized": clock[f"{case}: targets resized"],
            "semantic targets, query-initialisation losses": clock[f"{case}: initialisation"],
            "matching, 7 layers": clock[f"{case}: matching"],
        }
        parts["class, box and mask losses, 7 layers"] = max(forward - sum(list(parts.values())[2:]), 0)
        parts["backward of all losses"] = backward
        parts["gradient clipping and AdamW"] = rest
        total = network + forward + backward + rest
        print(f"\n{case} queries: {matches[case]:.1f} matched per object\n")
        print("| part | seconds | of the step |\n|---|---|---|")
        for name, seconds in parts.items():
            print(f"| {name} | {seconds:.3f} | {100 * seconds / total:.1f} % |")
        print(f"| **step** | **{total:.3f}** | |")
        outside = forward + backward + rest
        print(f"| **outside the network** | **{outside:.3f}** | **{100 * outside / total:.1f} %** |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1, help="clips in the batch (default: 1)")
    parser.add_argument("--objects", type=int, default=20, help="objects in a clip (default: 20)")
    parser.add_argument("--steps", type=int, default=3, help="number of steps; the median is reported (default: 3)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--cpu-seconds", action="store_true", help="measure CPU time instead of wall time")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = MDQE(MDQEConfig.preset("r50_ovis_360")).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    frames = torch.randint(0, 256, (args.clips, FRAMES, 3, HEIGHT, WIDTH), dtype=torch.uint8).to(device)
    targets = [make_targets(args.objects, seed).to(device) for seed in range(args.clips)]
    now = time.process_time if args.cpu_seconds else time.perf_counter
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads{load}")
    step(model, optimizer, frames, targets, Clock(device, now))  # warm-up
    clock = Clock(device, now)
    for _ in range(args.steps):
        matches = step(model, optimizer, frames, targets, clock)
    report(clock, matches)


if __name__ == "__main__":
    main()
