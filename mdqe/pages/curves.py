"""Curves of precision over recall, drawn with matplotlib."""

import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from mdqe.errors import DependencyError
from mdqe.evaluation.average_precision import IOU_THRESHOLDS, RECALLS

MOST_NAMED = 10  # categories with a colour of their own


def draw_curves(numbers: Mapping[str, Any]) -> bytes:
    """Draw an SVG picture: all categories together by IoU threshold, and each category over all thresholds.

    Args:
        numbers: of `evaluate` with `precision_curves`; at least one category has an object.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("drawing curves needs matplotlib: pip install 'mdqe[eval]'") from None
    curves: dict[int, np.ndarray] = numbers["precision_curves"]  # (10, 101) each
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    mean = np.mean(list(curves.values()), axis=0)
    for i, (iou, line) in enumerate(zip(IOU_THRESHOLDS, mean, strict=True)):
        color = mpl.colormaps["viridis"](0.9 * i / (len(mean) - 1))
        left.plot(RECALLS, 100 * line, color=color, label=f"{iou:.2f}  {100 * line.mean():.1f}")
    order = sorted(curves, key=lambda one: -numbers["per_category"][one]["objects"])
    for i, category in reversed(list(enumerate(order))):
        line, named = curves[category].mean(axis=0), i < MOST_NAMED
        name = numbers["per_category"][category]["name"].encode("utf-8", "replace").decode()
        label = f"{100 * line.mean():.1f}  {name[:28]}" if named else None
        right.plot(RECALLS, 100 * line, color=f"C{i}" if named else "0.8", label=label)
    for axes, title in ((left, "All categories, by IoU: AP"), (right, "By category, over IoU 0.5 to 0.95: AP")):
        axes.set(title=title, xlabel="recall", xlim=(0, 1), ylim=(0, 102))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        lines, labels = axes.get_legend_handles_labels()
        step = 1 if axes is left else -1  # the right ones were drawn in reverse order, so that the first is on top
        legend = axes.legend(lines[::step], labels[::step], loc="lower left", fontsize="small", framealpha=0.85)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name is not a formula
    left.set_ylabel("precision, %")
    if len(order) > MOST_NAMED:
        right.plot([], [], color="0.8")
        right.annotate(f"grey: {len(order) - MOST_NAMED} more", (0.98, 0.97), xycoords="axes fraction", ha="right")
    buffer = BytesIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "mdqe"}):  # so that equal numbers give equal bytes
        warnings.simplefilter("ignore", UserWarning)  # letters that are missing in the font
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
