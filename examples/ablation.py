"""The paper's ablation (Table 1) at a small scale: the bundled model's configuration, trained on the synthetic set.

    python examples/ablation.py -o ablation            # hours on two cores; again: goes on where it stopped
    python examples/ablation.py -o ablation --steps 20 --videos 2 --only full plain-mask-loss

Every variant gets the same steps, clips and seeds, and is scored on the same unseen videos. The variants of the tracker
need no training: they run the full model. Writes FOLDER/table.md and a run's folder per variant and seed.
"""

import argparse
import json
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean

from mdqe import MDQE
from mdqe.cli import main as mdqe
from mdqe.cli import say
from mdqe.source import BUNDLED_FOLDER
from mdqe.training.validation import synthetic_validation

CONFIG = BUNDLED_FOLDER / "tiny" / "config.json"
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


def train(folder: Path, changes: dict, args: argparse.Namespace, seed: int) -> None:
    """One run, resumed where it was stopped."""
    settings = [f"--set={name}={json.dumps(value)}" for name, value in changes.items()]
    recipe = ["--batch=4", "--lr=5e-4", "--backbone-multiplier=1", "--decay=0.8", "--warmup=200", "--clip-norm=1",
              "--amp=bf16", "--loss-weight=class=8", "--loss-weight=init_sem=6"]  # fmt: skip
    if not (folder / "model.safetensors").exists():
        command = ["train", f"--config={CONFIG}", *settings, "--data=synthetic", *recipe, f"--steps={args.steps}",
                   f"--seed={seed}", "--workers=1", "--resume", f"-o={folder}"]  # fmt: skip
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
    parser.add_argument("--steps", type=int, default=6000, help="of every run (default: %(default)s)")
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
