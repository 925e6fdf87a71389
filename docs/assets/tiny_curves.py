"""Draws tiny_curves.png of the rows that training wrote: `python docs/assets/tiny_curves.py`; needs matplotlib."""

import csv
from pathlib import Path

import matplotlib.pyplot as plt

here = Path(__file__).parent


def columns(name: str) -> dict[str, list[float]]:
    """A CSV file of numbers by column."""
    with open(here / name, newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key] or "nan") for row in rows] for key in rows[0]}


runs = [columns(f"tiny_metrics{number}.csv") for number in ("", "_2", "_3")]
validation = columns("tiny_validation.csv")
starts = [0.0]
for run in runs:
    starts.append(starts[-1] + run["step"][-1])
steps = [start + step for start, run in zip(starts, runs, strict=False) for step in run["step"]]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for name in ("dice", "giou", "box", "mask"):
    left.plot(steps, [value for run in runs for value in run[name]], label=name, linewidth=0.9)
for start in starts[1:-1]:
    left.axvline(start, color="grey", linewidth=0.8, linestyle="--")  # from here on with larger frames
left.set(xlabel="step", ylabel="weighted loss, last layer", ylim=(0, 2.5))
for name in ("AP", "AP50", "AP_so", "AP_mo", "AP_ho"):
    right.plot(validation["step"], [100 * value for value in validation[name]], label=name, marker=".")
right.set(xlabel="step of the first run", ylabel="12 unseen videos", ylim=(0, 100))
for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.legend(ncols=2)
figure.savefig(here / "tiny_curves.png", dpi=110)
