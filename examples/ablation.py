"""The paper's ablation (Table 1) at a small scale: the bundled model's configuration, trained on the synthetic set.

    python examples/ablation.py -o ablation            # takes hours; run it again to resume
    python examples/ablation.py -o ablation --steps 20 --videos 2 --only full plain-mask-loss

Every variant starts with the backbone and the encoder of the bundled model, as the variants in the paper start from
trained weights. Its query initialiser, decoder, heads and mask head start from random weights. All variants use the
same steps, clips and seeds, and are evaluated on the same unseen videos. The variants of the tracker need no training:
they use the full model. The script writes FOLDER/table.md and one run folder per variant and seed.
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
from mdqe.training import synthetic_validation

TRAINED_PARTS = ("backbone.", "encoder.")
MODEL_VARIANTS = {
    "full": {},
    "no query initialisation": {"query_initialization": False},
    "I2O": {"decoder": "i2o"},
    "no TCA": {"temporal_cross_attention": False},
    "no association": {"query_association": False},
    "plain mask loss": {"mask_loss": "plain"},
}
TRACKER_VARIANTS = {
    "tracker by IoU alone": {"similarity_weight": 0.0},
    "tracker by similarity alone": {"iou_weight": 0.0},
}
COLUMNS = ("AP", "AP50", "AP_so", "AP_mo", "AP_ho", "HOTA", "IDSW")
VALIDATION_SEED = 2026  # not used for training


def initial_model(folder: Path, changes: dict, seed: int) -> Path:
    """Save a model to train: backbone and encoder of the bundled model, random weights for the rest."""
    if not folder.exists():
        bundled = MDQE.from_pretrained("mdqe:tiny", dtype=torch.float32)
        torch.manual_seed(seed)
        model = MDQE(dataclasses.replace(bundled.config, test_shorter_edge=None, iou_weight=1.0, **changes))
        trained = {name: value for name, value in bundled.state_dict().items() if name.startswith(TRAINED_PARTS)}
        model.load_state_dict(model.state_dict() | trained)  # strict: both models have all of these names
        model.save_pretrained(folder)
    return folder


def train(folder: Path, changes: dict, args: argparse.Namespace, seed: int) -> None:
    """Train one run, or resume it."""
    recipe = ["--batch=4", "--lr=5e-4", "--backbone-multiplier=1", "--decay=0.8", "--warmup=50", "--clip-norm=1",
              "--amp=bf16", "--loss-weight=class=8", "--loss-weight=init_sem=6"]  # fmt: skip
    if not (folder / "model.safetensors").exists():
        command = ["train", f"--init={initial_model(folder / 'start', changes, seed)}", "--data=synthetic", *recipe,
                   f"--steps={args.steps}", f"--seed={seed}", "--workers=1", "--resume", f"-o={folder}"]  # fmt: skip
        with redirect_stdout(sys.stderr):  # stdout is for the table only
            status = mdqe(command)
        if status:
            raise SystemExit(status)


def evaluate(folder: Path, changes: dict, validation) -> dict[str, float]:
    """Metrics of a trained model, stored next to it."""
    path = folder / f"scores{'-'.join(['', *changes])}.json"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "no results"
            path.write_text(json.dumps(validation(MDQE.from_pretrained(folder, **changes), 0)))
    return json.loads(path.read_text())


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Means over the seeds, in percent except for the number of identity switches."""
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
    parser.add_argument("--steps", type=int, default=600, help="training steps of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="training seeds (default: 1)")
    parser.add_argument("--videos", type=int, default=40, help="number of videos to evaluate on (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[*MODEL_VARIANTS, *TRACKER_VARIANTS],
                        help="variants to run, with hyphens instead of spaces")  # fmt: skip
    args = parser.parse_args()
    validation = synthetic_validation(args.videos, seed=VALIDATION_SEED)
    rows = {}
    for name, changes in (MODEL_VARIANTS | TRACKER_VARIANTS).items():
        if name not in args.only and name.replace(" ", "-") not in args.only:
            continue
        model_changes, tracker_changes = ({}, changes) if name in TRACKER_VARIANTS else (changes, {})
        for seed in args.seeds:
            folder = args.output / f"{'full' if name in TRACKER_VARIANTS else name.replace(' ', '-')}-{seed}"
            say(f"{name}, seed {seed}")
            train(folder, model_changes, args, seed)
            rows.setdefault(name, []).append(evaluate(folder, tracker_changes, validation))
        (args.output / "table.md").write_text(table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
