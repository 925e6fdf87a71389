"""The tables that `mdqe evaluate` prints for the benchmarks with more than one group of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from mdqe.evaluation.tubes import OFFICIAL

GROUPS = {"lvvis": ("all", "base", "novel"), "hqvis": ("tube_mask", "tube_boundary")}
"""The groups of "official" that have the twelve metrics."""


def group_table(benchmark: str, official: Mapping[str, Any]) -> str:
    """A line in percent for each group of LV-VIS or HQ-YTVIS."""
    rows = [("", *OFFICIAL.values())]
    rows += [(name, *(percent(official[name][key]) for key in OFFICIAL)) for name in GROUPS[benchmark]]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns, the first one aligned to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def percent(value: float) -> str:
    """A metric from 0 to 1 in percent; "-" where there is nothing to count."""
    return "-" if value == -1 else f"{100 * value:.1f}"
