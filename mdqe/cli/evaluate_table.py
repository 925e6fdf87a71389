"""The tables that `mdqe evaluate` prints for the benchmarks with more than one group of numbers."""

import math
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


def burst_table(numbers: Mapping[str, Any]) -> str:
    """A table for each task of BURST, with HOTA by the boxes of masks, which is official, and by masks."""
    tables = []
    for task in ("class_guided", "exemplar_guided", "open_world"):
        rows = [(task, "all", "common", "uncommon")]
        for suffix, source in (("", numbers["official"]), (" (masks)", numbers["mask_hota"])):
            for name, one in source[task]["summary"].items():
                if name != "AP" or not suffix:
                    rows.append((name + suffix, *("-" if value != value else f"{value:.1f}" for value in one.values())))
        tables.append(aligned(rows))
    return "\n\n".join(tables)


MOTS = {
    "sMOTSA": "sMOTSA",
    "MOTSA": "MOTSA",
    "MOTSP": "MOTSP",
    "id_switches": "IDS",
    "tp": "TP",
    "fp": "FP",
    "fn": "FN",
}
"""The columns of MOTS by the names in mots_tools."""


def mots_table(official: Mapping[str, Any]) -> str:
    """A table of the numbers of mots_tools for each class, then TrackEval's over all sequences."""
    tables = []
    for kind in ("car", "pedestrian"):
        rows = [(kind, *MOTS.values())]
        rows += [(name, *(_number(one[key]) for key in MOTS)) for name, one in official[kind].items()]
        tables.append(aligned(rows))
    rows = [("TrackEval", "HOTA", "sMOTA", "MOTA", "MOTP", "IDF1", "IDSW")]
    for kind, parts in official["trackeval"]["COMBINED_SEQ"].items():
        hota, clear = sum(parts["HOTA"]["HOTA"]) / len(parts["HOTA"]["HOTA"]), parts["CLEAR"]
        values = (hota, clear["sMOTA"], clear["MOTA"], clear["MOTP"], parts["Identity"]["IDF1"], clear["IDSW"])
        rows.append((kind, *map(_number, values)))
    return "\n\n".join([*tables, aligned(rows)])


def _number(value: float) -> str:
    """A count as it is, a metric in percent; "-" if it is infinite."""
    if isinstance(value, int):
        return str(value)
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns, the first one aligned to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def percent(value: float) -> str:
    """A metric from 0 to 1 in percent; "-" where there is nothing to count."""
    return "-" if value == -1 else f"{100 * value:.1f}"
