"""Curves of an evaluation, drawn with matplotlib."""

import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from mdqe.errors import DependencyError
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, RECALLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, MOST_ROWS = 4, 3
LINE, SOFT = "#1d4ed8", "0.6"


def draw_curves(numbers: Mapping[str, Any]) -> bytes:
    """Draw precision over recall as an SVG picture: all categories together, then a small picture for each category.

    A line is the mean over the IoU thresholds 0.5 to 0.95, and the band around it extends from the curve at 0.95 to the
    one at 0.5. The categories with most objects have pictures, at most 11; a grey line is the mean of all categories.

    Args:
        numbers: of `evaluate` with `precision_curves`; at least one category has an object.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    curves: dict[int, np.ndarray] = numbers["precision_curves"]  # (10, 101) each
    every = np.mean(list(curves.values()), axis=0)
    order = sorted(curves, key=lambda one: -numbers["per_category"][one]["objects"])
    shown = order[: COLUMNS * MOST_ROWS - 1] if len(order) > 1 else []
    rows = -(-(1 + len(shown)) // COLUMNS)
    columns = min(COLUMNS, 1 + len(shown))
    figure = _figure(5.4 if not shown else 2.7 * columns, 3.4 if not shown else 2.5 * rows + 0.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    _draw_panel(panels[0], every, f"all {len(order)} categories" if shown else _name(numbers, order[0]), None)
    panels[0].legend(loc="lower left", fontsize="x-small", framealpha=0.85)
    for axes, category in zip(panels[1:], shown, strict=False):
        _draw_panel(axes, curves[category], _name(numbers, category), every)
    for axes in panels[1 + len(shown) :]:
        axes.set_visible(False)
    for axes in panels[: 1 + len(shown)][-columns:]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    notes = ["grey: all categories"] * bool(shown)
    if len(order) > len(shown) > 0:
        notes.append(f"{len(order) - len(shown)} more categories are in precision_recall.csv")
    figure.supxlabel("; ".join(["recall", *notes]), fontsize="small")
    figure.supylabel("precision, %", fontsize="small")
    return _svg(figure)


def draw_thresholds(numbers: Mapping[str, Any]) -> bytes:
    """Draw HOTA, its two parts and IDF1 over the minimum score as an SVG picture.

    Args:
        numbers: of `mdqe evaluate` with several minimum scores: "score_thresholds" and the chosen "score_threshold".

    Raises:
        DependencyError: matplotlib is not installed.
    """
    sweep, chosen = numbers["score_thresholds"], numbers["score_threshold"]
    figure = _figure(5.4, 3.2)
    axes = figure.subplots()
    styles = {"HOTA": (LINE, 2.2), "IDF1": ("#b45309", 1.4), "DetA": (SOFT, 1.2), "AssA": ("0.35", 1.2)}
    for name, (color, width) in styles.items():
        values = [100 * one[name] for one in sweep.values()]
        style = "--" if name == "AssA" else "-"
        axes.plot(list(sweep), values, style, color=color, linewidth=width, label=name, marker=".", markersize=4)
    best = 100 * sweep[chosen]["HOTA"]
    axes.axvline(chosen, color=LINE, linewidth=0.8, alpha=0.5)
    axes.annotate(f"{chosen:g}: HOTA {best:.1f}", (chosen, best), (4, 6), textcoords="offset points", fontsize="small")
    axes.set(xlabel="minimum score", ylabel="%", ylim=(0, 102))
    axes.legend(loc="best", fontsize="small", framealpha=0.85, ncols=2)
    _clear(axes)
    return _svg(figure)


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("drawing curves needs matplotlib: pip install 'mdqe[eval]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def _draw_panel(axes: "Axes", lines: np.ndarray, name: str, every: np.ndarray | None) -> None:
    """One category, or all: precision at the IoU thresholds (10, 101)."""
    mean = lines.mean(axis=0)
    bounds = f"IoU {IOU_THRESHOLDS[-1]:.2f} to {IOU_THRESHOLDS[0]:.2f}"
    axes.fill_between(RECALLS, 100 * lines[-1], 100 * lines[0], color=LINE, alpha=0.15, linewidth=0, label=bounds)
    if every is not None:
        axes.plot(RECALLS, 100 * every.mean(axis=0), color=SOFT, linewidth=1)
    axes.plot(RECALLS, 100 * mean, color=LINE, linewidth=1.6, label="mean over IoU")
    axes.set(xlim=(0, 1), ylim=(0, 102), xticks=[0, 0.5, 1])
    title = axes.set_title(f"{name}  AP {100 * lines.mean():.1f}", fontsize="small", loc="left")
    title.set_parse_math(False)  # a name is not a formula
    _clear(axes)


def _clear(axes: "Axes") -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize="x-small")


def _name(numbers: Mapping[str, Any], category: int) -> str:
    name = numbers["per_category"][category]["name"].encode("utf-8", "replace").decode()
    return name if len(name) <= 22 else f"{name[:21]}…"


def _svg(figure: "Figure") -> bytes:
    import matplotlib as mpl

    buffer = BytesIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "mdqe"}):  # so that equal numbers give equal bytes
        warnings.simplefilter("ignore", UserWarning)  # letters that are missing in the font
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
