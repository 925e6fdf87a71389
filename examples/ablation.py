"""The paper's ablation (Table 1 and Fig. 6) at a small scale, with several seeds, on the synthetic set.

    python examples/ablation.py -o ablation            # run it again to continue; see docs/ablation.md for the time
    python examples/ablation.py -o ablation --rows full plain-mask-loss --seeds 1 2 3
    python examples/ablation.py -o quick --steps 20 --videos 2 --frames 8 --rows full
    python examples/ablation.py -o docs/assets/ablation --rows window-3  # adds to the scores of docs/ablation.md

Every model starts with the backbone and the encoder of the bundled model, as the models in the paper start from trained
weights. Its query initialiser, decoder, heads and mask head start from random weights. The models of one seed are
trained on the same clips, and all are scored on the same unseen videos. Rows of the tracker need no training: they use
the full model. Defaults depend on the device: on a GPU the whole model is trained, on the CPU backbone and encoder are
frozen, frames are smaller and steps are fewer.

FOLDER/scores.json has all scores, rows.md and findings.md the tables, findings.png the plot (with matplotlib). A
finding is the difference between two rows, paired by seed, with a 95 % confidence interval (Student's t). A row and
seed that scores.json has is neither trained nor scored again, so FOLDER may be shared without its models. "clip AP"
and "clip AP_ho" take every four frames as a video of their own, so that the tracker plays no part. `--amp none` trains
in float32 where the folder has runs with autocast. Runs of different precision are not paired.
"""

import argparse
import csv
import dataclasses
import json
import sys
import warnings
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from mdqe import MDQE
from mdqe.cli import main as mdqe
from mdqe.cli import say
from mdqe.data import draw_video
from mdqe.data.synthetic import Drawing
from mdqe.data.synthetic_files import document_of
from mdqe.training import synthetic_validation
from mdqe.training.validation import Validation

try:
    import fcntl
except ImportError:  # Windows: train one row at a time
    fcntl = None  # type: ignore[assignment]

TRAINED_PARTS = ("backbone.", "encoder.")
VALIDATION_SEED = 2026  # not used for training
COLUMNS = ("AP", "AP50", "AP_so", "AP_mo", "AP_ho", "HOTA", "IDSW", "clip AP", "clip AP_ho")
GAINS = ("AP", "AP_ho", "HOTA", "clip AP", "clip AP_ho")
CLIP, CLIP_METRICS = 4, ("AP", "AP_ho")  # frames
PERCENT = {name: 1 if name == "IDSW" else 100 for name in COLUMNS}
DIFFICULTIES = ["standard", "occluded"]
SCALES: dict[str, dict[str, Any]] = {
    "cuda": {"steps": 6000, "batch": 8, "size": "384x256", "amp": "bf16", "freeze": None, "videos": 40, "frames": 40},
    "cpu": {"steps": 600, "batch": 4, "size": "192x128", "amp": None, "freeze": "backbone,encoder", "videos": 20,
            "frames": 24},
}  # fmt: skip
RECIPE = ("--lr=5e-4", "--backbone-multiplier=1", "--decay=0.8", "--warmup=50", "--clip-norm=1", "--ema=0.995",
          "--loss-weight=class=8", "--loss-weight=init_sem=6", "--workers=1", "--save-every=50")  # fmt: skip


class Row(NamedTuple):
    """A variant: changes of the configuration for training and, of the same model, for testing."""

    trained: dict[str, Any]
    tested: dict[str, Any]


class Finding(NamedTuple):
    """A pair of rows, and the paper's AP and AP_ho of both, where it has them."""

    part: str
    source: str
    without: str
    full: str
    paper_ap: tuple[float, float] | None = None
    paper_ho: tuple[float, float] | None = None


ROWS = {
    "full": Row({}, {}),
    "plain mask loss": Row({"mask_loss": "plain"}, {}),
    "inter-instance BCE alone": Row({"mask_loss": "inter_instance_bce"}, {}),
    "mask loss, ε = 0.5": Row({"mask_loss_iou_threshold": 0.5}, {}),
    "I2O": Row({"decoder": "i2o"}, {}),
    "I2O, no query initialisation": Row({"decoder": "i2o", "query_initialization": False}, {}),
    "no TCA": Row({"temporal_cross_attention": False}, {}),
    "no association": Row({"query_association": False}, {}),
    "window 3": Row({"association_window": 3}, {}),
    "window 7": Row({"association_window": 7}, {}),
    "tracker by IoU alone": Row({}, {"similarity_weight": 0.0}),
    "tracker by similarity alone": Row({}, {"iou_weight": 0.0}),
    "tracker memory of 10 frames": Row({}, {"memory_frames": 10}),
    "tracker memory of 5 frames": Row({}, {"memory_frames": 5}),
    "tracker, then new ids by motion": Row({}, {"relink": True}),
    "clips of 1 frame": Row({"clip_length": 1, "test_clip_length": 1}, {}),
    "clips of 3 frames": Row({"clip_length": 3, "test_clip_length": 3}, {}),
    "clips of 5 frames": Row({"clip_length": 5, "test_clip_length": 5}, {}),
    "clips of 7 frames": Row({"clip_length": 7, "test_clip_length": 7}, {}),
}
"""In the order in which they are trained. The full model has clips of 4 frames and a window of 5 cells."""
FINDINGS = (
    Finding("inter-instance mask loss", "Table 1c", "plain mask loss", "full", (29.0, 31.2), (11.8, 13.5)),
    Finding("its BCE", "Table 1c", "plain mask loss", "inter-instance BCE alone", (29.0, 30.5), (11.8, 12.9)),
    Finding("its Dice loss", "Table 1c", "inter-instance BCE alone", "full", (30.5, 31.2), (12.9, 13.5)),
    Finding("ε = 0.1 in place of 0.5", "Table 1c", "mask loss, ε = 0.5", "full", (30.9, 31.2), (13.3, 13.5)),
    Finding("query initialisation", "Table 1a", "I2O, no query initialisation", "I2O", (15.4, 19.8), (3.2, 6.5)),
    Finding("O2I in place of I2O", "Table 1a", "I2O", "no TCA", (19.8, 24.2), (6.5, 8.4)),
    Finding("TCA", "Table 1a", "no TCA", "full", (24.2, 25.6), (8.4, 11.2)),
    Finding("association, w = 5", "Table 1b", "no association", "full", (28.5, 30.6), (11.9, 13.6)),
    Finding("w = 5 in place of 3", "Table 1b", "window 3", "full", (29.7, 30.6), (12.2, 13.6)),
    Finding("w = 7 in place of 5", "Table 1b", "full", "window 7", (30.6, 30.5), (13.6, 13.7)),
    Finding("similarity in the tracker", "Table 1d", "tracker by IoU alone", "full", (29.1, 30.6), (12.9, 13.6)),
    Finding("mask IoU in the tracker", "Table 1d", "tracker by similarity alone", "full", (28.3, 30.6), (11.6, 13.6)),
    Finding("memory of 10 frames in place of 5", "Table 1d", "tracker memory of 5 frames",
            "tracker memory of 10 frames", (30.4, 30.6), (13.2, 13.6)),
    Finding("clips of 4 frames in place of 1", "Fig. 6", "clips of 1 frame", "full", (27.0, 30.6)),  # 30.6: Table 1b
    Finding("clips of 4 frames in place of 3", "Fig. 6", "clips of 3 frames", "full"),
    Finding("clips of 5 frames in place of 4", "Fig. 6", "full", "clips of 5 frames"),
    Finding("clips of 7 frames in place of 4", "Fig. 6", "full", "clips of 7 frames", (30.6, 31.0)),
)  # fmt: skip


def slug(name: str) -> str:
    """The name of a row as an argument and as a folder."""
    return name.replace(",", "").replace(" = ", "-").replace(" ", "-").replace("ε", "epsilon")


def initial_model(folder: Path, changes: dict[str, Any], seed: int) -> Path:
    """Save a model to train: backbone and encoder of the bundled model, random weights for the rest."""
    if not folder.exists():
        bundled = MDQE.from_pretrained("mdqe:tiny", dtype=torch.float32)
        published = {"iou_weight": 1.0, "memory_frames": 15, "short_memory_frames": 5, "relink": False}
        base = {"clip_length": 4, "test_clip_length": 4, "window_length": 6, "test_shorter_edge": None, **published}
        torch.manual_seed(seed)
        model = MDQE(dataclasses.replace(bundled.config, **{**base, **changes}))
        trained = {name: value for name, value in bundled.state_dict().items() if name.startswith(TRAINED_PARTS)}
        model.load_state_dict(model.state_dict() | trained)  # strict: both models have all of these names
        model.save_pretrained(folder)
    return folder


def train(folder: Path, changes: dict[str, Any], scale: dict[str, Any], seed: int) -> None:
    """Train one model, or continue its training."""
    if (folder / "model.safetensors").exists():
        return
    options = [f"--{name}={scale[name]}" for name in ("steps", "batch", "size", "device")]
    options += [f"--{name}={scale[name]}" for name in ("amp", "freeze") if scale[name] not in (None, "none")]
    sets = [f"--data=synthetic:{name}" for name in DIFFICULTIES]
    start = initial_model(folder / "start", changes, seed)
    with redirect_stdout(sys.stderr):  # stdout is for the tables only
        options += [f"--seed={seed}", "--resume", f"-o={folder}"]
        if status := mdqe(["train", f"--init={start}", *sets, *RECIPE, *options]):
            raise SystemExit(status)


def seconds(folder: Path) -> float:
    """The duration of a training."""
    with (folder / "metrics.csv").open(newline="") as file:
        steps = [(int(row["step"]), float(row["seconds"])) for row in csv.DictReader(file)]
    return sum((step - before) * each for (step, each), before in zip(steps, [0, *(s for s, _ in steps)], strict=False))


def clip_validation(videos: int, *, seed: int, frames: int, **options: Any) -> Validation:
    """Validation on every CLIP frames of the videos of `synthetic_validation`, as videos of their own."""
    clips = []
    for index in range(videos):
        whole = draw_video(seed, index, frames=frames, **options)
        for start in range(0, frames - CLIP + 1, CLIP):
            part = slice(start, start + CLIP)
            clips.append(Drawing(whole.frames[part], whole.labels, whole.masks[:, part], whole.hidden[:, part]))
    return Validation(document_of(clips), [partial(iter, clip.frames) for clip in clips])


def validate(videos: int, **options: Any) -> tuple[Validation, Validation]:
    """The two validations of a difficulty: on whole videos and on their clips."""
    return synthetic_validation(videos, **options), clip_validation(videos, **options)


def evaluate(
    folder: Path, changes: dict[str, Any], validations: dict[str, tuple[Validation, Validation]], device: str
) -> dict[str, Any]:
    """Metrics of a trained model for each difficulty."""
    model = MDQE.from_pretrained(folder, **changes).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "no results"
        found = {name: (whole(model, 0), clips(model, 0)) for name, (whole, clips) in validations.items()}
    return {name: whole | {f"clip {key}": clips[key] for key in CLIP_METRICS} for name, (whole, clips) in found.items()}


def interval(values: list[float]) -> str:
    """Mean and half of the 95 % confidence interval, which needs at least two values."""
    mean = np.mean(values).round(1) + 0.0  # not −0.0
    if len(values) < 2:
        return f"{mean:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:.1f} ± {half:.1f}"


def differences(scores: dict[str, Any], finding: Finding, difficulty: str, column: str) -> list[float]:
    """The gain of a part for each seed that both rows have, trained with the same precision, in points."""
    without, full = scores.get(finding.without, {}), scores.get(finding.full, {})
    seeds = sorted(set(without) & set(full), key=int)
    pairs = [(without[s], full[s]) for s in seeds if without[s].get("amp") == full[s].get("amp")]
    values = [[run[difficulty].get(column) for run in pair] for pair in pairs]  # older runs have fewer columns
    return [PERCENT[column] * (after - before) for before, after in values if None not in (before, after)]


def rows_table(scores: dict[str, Any], difficulty: str) -> str:
    """Mean and interval of each row; percent, except for the number of identity switches."""
    lines = ["| variant | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, runs in scores.items():
        metrics = [run[difficulty] for run in runs.values()]
        found = {c: [PERCENT[c] * run[c] for run in metrics if c in run] for c in COLUMNS}  # older runs have fewer
        cells = ["–" if min(values, default=-1) < 0 else interval(values) for values in found.values()]  # −1: none
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def findings_table(scores: dict[str, Any], difficulty: str) -> str:
    """The gain of each part beside the paper's; missing rows are said."""
    lines = ["| part | paper: AP | AP_ho | here: seeds | " + " | ".join(GAINS) + " |", "|---" * (4 + len(GAINS)) + "|"]
    for finding in FINDINGS:
        gains = {column: differences(scores, finding, difficulty, column) for column in GAINS}
        cells = [interval(values) if values else "not measured" for values in gains.values()]
        paper = [f"{pair[1] - pair[0]:+.1f}" if pair else "–" for pair in (finding.paper_ap, finding.paper_ho)]
        cells = [f"{finding.part} ({finding.source})", *paper, str(len(gains["AP"])), *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(scores: dict[str, Any], path: Path) -> None:
    """The gains in AP and in clip AP with their intervals, beside the paper's gains in AP."""
    from matplotlib.figure import Figure

    shown = [finding for finding in FINDINGS if differences(scores, finding, DIFFICULTIES[0], "AP")]
    figure = Figure(figsize=(10, 1 + 0.5 * len(shown)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(shown), dtype=float)
    paper = [ap[1] - ap[0] if (ap := finding.paper_ap) else np.nan for finding in shown]
    for axes, column in zip(panels, ("AP", "clip AP"), strict=True):
        axes.plot(paper, places, "D", color="black", markersize=5, label="paper: AP (OVIS, ResNet-50)")
        for number, difficulty in enumerate(DIFFICULTIES, 1):
            values = [differences(scores, finding, difficulty, column) or [np.nan] for finding in shown]
            means = [np.mean(one) for one in values]
            halves = [stats.t.ppf(0.975, len(one) - 1) * stats.sem(one) if len(one) > 1 else 0.0 for one in values]
            axes.errorbar(means, places + 0.18 * number, xerr=halves, fmt="o", markersize=4, capsize=3,
                          label=f"here, {difficulty} scenes")  # fmt: skip
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set_xlabel(f"gain in {column}, points")
    panels[0].set_yticks(places + 0.18, [finding.part for finding in shown])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)


def read_scores(folder: Path) -> dict[str, Any]:
    """All scores of a folder, by row and seed, in the order of the rows; then rows that only another version has."""
    path = folder / "scores.json"
    scores = json.loads(path.read_text()) if path.exists() else {}
    order = [name for name in ROWS if name in scores] + [name for name in scores if name not in ROWS]
    return {name: dict(sorted(scores[name].items())) for name in order}


def add_scores(folder: Path, name: str, seed: int, found: dict[str, Any]) -> None:
    """Add one run to the scores of a folder. They are read again: another process may train other rows."""
    with (folder / "scale.json").open() as lock:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        scores = read_scores(folder)
        scores.setdefault(name, {})[str(seed)] = found
        partial = folder / "scores.json.partial"
        partial.write_text(json.dumps(scores, indent=1) + "\n")
        partial.replace(folder / "scores.json")


def report(folder: Path) -> str:
    """Write the tables and the plot; return the tables."""
    scores = read_scores(folder)
    rows = "\n".join(f"{name}:\n\n{rows_table(scores, name)}" for name in DIFFICULTIES)
    gains = "\n".join(f"{name}:\n\n{findings_table(scores, name)}" for name in DIFFICULTIES)
    (folder / "rows.md").write_text(rows)
    (folder / "findings.md").write_text(gains)
    if find_spec("matplotlib") and any(differences(scores, one, DIFFICULTIES[0], "AP") for one in FINDINGS):
        plot(scores, folder / "findings.png")
    return f"{rows}\n{gains}"


def read_scale(args: argparse.Namespace) -> dict[str, Any]:
    """The scale of the runs in the folder, which all of them must share: of the first one, or the arguments'."""
    path = args.output / "scale.json"
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    scale = {**SCALES["cpu" if device == "cpu" else "cuda"], "device": device}
    given = {name: getattr(args, name) for name in scale if getattr(args, name, None) is not None}
    if path.exists():
        scale = json.loads(path.read_text())
        differ = [f"{name} is {scale[name]}" for name in given if name != "amp" and scale[name] != given[name]]
        if differ:
            raise SystemExit(f"{path}: {', '.join(differ)}; use the same values or another folder")
        return scale | given  # amp may be another one: each run says with which it was trained
    scale |= given
    args.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scale) + "\n")
    return scale


def main() -> None:
    names = {slug(name): name for name in ROWS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("ablation"), help="folder (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=names, default=list(names), metavar="ROW",
                        help=f"some of {', '.join(names)} (default: all)")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="training seeds (default: 1 2 3)")
    parser.add_argument("--device", help="default: cuda where there is one, otherwise cpu")
    for name in ("steps", "batch", "videos", "frames"):
        parser.add_argument(
            f"--{name}", type=int, help=f"default: {SCALES['cuda'][name]}, on CPU {SCALES['cpu'][name]}"
        )
    parser.add_argument("--amp", choices=["bf16", "fp16", "none"],
                        help="autocast in training (default: bf16, on CPU none)")  # fmt: skip
    args = parser.parse_args()
    scale = read_scale(args)
    options = {
        "seed": VALIDATION_SEED,
        "frames": scale["frames"],
        "size": tuple(map(int, scale["size"].split("x")))[::-1],
    }
    validations = {name: validate(scale["videos"], difficulty=name, **options) for name in DIFFICULTIES}
    runs = [(names[name], seed) for name in args.rows for seed in args.seeds]
    for number, (name, seed) in enumerate(runs, 1):
        say(f"{number} of {len(runs)}: {name}, seed {seed}")
        if str(seed) not in read_scores(args.output).get(name, {}):
            row = ROWS[name]
            folder = args.output / f"{slug(name if row.trained else 'full')}-{seed}"
            train(folder, row.trained, scale, seed)
            say(f"a training takes {seconds(folder) / 60:.0f} minutes here")
            found = evaluate(folder, row.tested, validations, scale["device"])
            add_scores(args.output, name, seed, found | {"amp": scale["amp"] or "none"})
        tables = report(args.output)
    print(tables, end="")


if __name__ == "__main__":
    main()
