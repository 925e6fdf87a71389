"""The numbers of an evaluation, for people and for spreadsheets."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdqe.atomic import whole_file

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
DEGREES = {"slightly": "so", "moderately": "mo", "heavily": "ho"}


def table(numbers: Mapping[str, Any]) -> str:
    """All categories and each: of images by masks, then by boxes; of videos also by occlusion, and identity.

    In percent, "-" where there is nothing to count.
    """
    if "box_AP" in numbers:
        return "\n".join([*_categories(numbers, "masks"), "", *_categories(numbers, "boxes", "box_")])
    lines = _categories(numbers)
    if "AP_so" in numbers:
        lines.append("")
        for degree, key in DEGREES.items():
            precision, recall = _percent(numbers[f"AP_{key}"]), _percent(numbers[f"AR_{key}"])
            lines.append(f"{degree} occluded".ljust(20) + f"AP {precision:>5}  AR {recall:>5}")
    if "HOTA" in numbers:
        names = ("HOTA", "DetA", "AssA", "IDF1", "IDP", "IDR")
        values = "  ".join(f"{name} {_percent(numbers[name])}" for name in names)
        lines += ["", f"{values}  identity switches {numbers['IDSW']}"]
    return "\n".join(lines)


def _categories(numbers: Mapping[str, Any], title: str = "", prefix: str = "") -> list[str]:
    """A line for all categories, then one for each that has objects or results."""
    rows = [(title, "objects", *COLUMNS)]
    categories = [one for one in numbers["per_category"].values() if one["objects"] or one["results"]]
    total = sum(one["objects"] for one in categories)
    for name, count, one in (("all", total, numbers), *((one["name"], one["objects"], one) for one in categories)):
        rows.append((name, str(count), *(_percent(one[prefix + key]) for key in COLUMNS)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def write_tables(numbers: Mapping[str, Any], folder: Path) -> None:
    """numbers.json, per_category.csv and, where there are numbers of each video, per_video.csv; no curves."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "numbers.json") as partial:
        partial.write_text(json.dumps({k: v for k, v in numbers.items() if k != "precision_curves"}, indent=1) + "\n")
    for name in [one for one in ("per_category", "per_video") if one in numbers]:
        columns = list(next(iter(numbers[name].values()), {}))
        with whole_file(folder / f"{name}.csv") as partial, partial.open("w", newline="", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["id", *columns])
            for number, one in numbers[name].items():
                writer.writerow([number, *("" if one[key] == -1 else one[key] for key in columns)])


def _percent(value: float) -> str:
    return "-" if value == -1 else f"{100 * value:.1f}"
