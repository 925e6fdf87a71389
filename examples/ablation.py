"""The paper's ablation (Table 1) at a small scale: the bundled model's configuration, trained on the synthetic set.

    python examples/ablation.py -o ablation            # hours; again: goes on where it stopped
    python examples/ablation.py -o ablation --steps 20 --videos 2 --only full plain-mask-loss

Every variant starts with the backbone and the encoder of the bundled model, as the paper's start from trained ones, and
with a query initialiser, decoder, heads and mask head of random weights. Each gets the same steps, clips and seeds, and
is scored on the same unseen videos. The variants of the tracker need no training: they run the full model. Writes
FOLDER/table.md and a run's folder per variant and seed.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean

import torch

from mdqe import MDQE
from mdqe.cli import main as mdqe
from mdqe.cli import say
from mdqe.training.validation import synthetic_validation

TRUNK = ("backbone.", "encoder.")
TRAINED = {
    "full": {},
    "no query initialisation": {"query_initialization": False},
    "I2O": {"decoder": "i2o"},
    "no TCA": {"temporal_cross_attention": False},
    "no association": {"query_association": False},
    "plain mask loss": {"mask_loss": "plain"},
}
TRACKED = {
    "tracker by IoU alone": {"similarity_weight": 0.0},
    "tracker by similarity alone": {"iou_weight": 0.0},
}
COLUMNS = ("AP", "AP50", "AP_so", "AP_mo", "AP_ho", "HOTA", "IDSW")
VALIDATION_SEED = 2026  # no training seed


def start(folder: Path, changes: dict, seed: int) -> Path:
    """A model to train: the bundled one's trunk, all else random."""
    if not folder.exists():
        bundled = MDQE.from_pretrained("mdqe:tiny", dtype=torch.float32)
        torch.manual_seed(seed)
        model = MDQE(dataclasses.replace(bundled.config, test_shorter_edge=None, iou_weight=1.0, **changes))
        trunk = {name: value for name, value in bundled.state_dict().items() if name.startswith(TRUNK)}
        model.load_state_dict(model.state_dict() | trunk)  # strict: both have every name of the trunk
        model.save_pretrained(folder)
    return folder


def train(folder: Path, changes: dict, args: argparse.Namespace, seed: int) -> None:
    """One run, resumed where it was stopped."""
    recipe = ["--batch=4", "--lr=5e-4", "--backbone-multiplier=1", "--decay=0.8", "--warmup=50", "--clip-norm=1",
              "--amp=bf16", "--loss-weight=class=8", "--loss-weight=init_sem=6"]  # fmt: skip
    if not (folder / "model.safetensors").exists():
        command = ["train", f"--init={start(folder / 'start', changes, seed)}", "--data=synthetic", *recipe,
                   f"--steps={args.steps}", f"--seed={seed}", "--workers=1", "--resume", f"-o={folder}"]  # fmt: skip
        with redirect_stdout(sys.stderr):  # results alone on stdout
            status = mdqe(command)
        if status:
            raise SystemExit(status)


def score(folder: Path, changes: dict, validation) -> dict[str, float]:
    """Numbers of a trained model, kept beside it."""
    kept = folder / f"scores{'-'.join(['', *changes])}.json"
    if not kept.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there are no results
            kept.write_text(json.dumps(validation(MDQE.from_pretrained(folder, **changes), 0)))
    return json.loads(kept.read_text())


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Means over the seeds, in percent but for the number of identity switches."""
    lines = ["| variant | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, runs in rows.items():
        values = [fmean(run[column] for run in runs) * (1 if column == "IDSW" else 100) for column in COLUMNS]
        lines.append(
            f"| {name} | {len(runs)} | " + " | ".join("–" if value < 0 else f"{value:.1f}" for value in values) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("ablation"), help="folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of training (default: 1)")
    parser.add_argument("--videos", type=int, default=40, help="to score on (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[*TRAINED, *TRACKED], help="variants, a hyphen for each space")
    args = parser.parse_args()
    validation = synthetic_validation(args.videos, seed=VALIDATION_SEED)
    rows = {}
    for name, changes in (TRAINED | TRACKED).items():
        if name not in args.only and name.replace(" ", "-") not in args.only:
            continue
        trained, tracked = ({}, changes) if name in TRACKED else (changes, {})
        for seed in args.seeds:
            folder = args.output / f"{'full' if name in TRACKED else name.replace(' ', '-')}-{seed}"
            say(f"{name}, seed {seed}")
            train(folder, trained, args, seed)
            rows.setdefault(name, []).append(score(folder, tracked, validation))
        (args.output / "table.md").write_text(table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
