"""`mdqe evaluate --score-threshold sweep`: identity metrics at several minimum scores, and which one to choose."""

import argparse
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mdqe.cli.options import number, several
from mdqe.errors import InputError

SWEEP = "sweep"
_COLUMNS = ("HOTA", "DetA", "AssA", "IDF1")

Sweep = Mapping[float, Mapping[str, float]]


def thresholds(text: str) -> float | tuple[float, ...]:
    """One minimum score, several separated by commas, or those of "sweep"."""
    if text == SWEEP:
        from mdqe.evaluation.thresholds import THRESHOLDS

        return THRESHOLDS
    try:
        found = several(number(0, 1))(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f'{error}, several of them, or "{SWEEP}"') from None
    return found if len(found) > 1 else found[0]


def check_thresholds(args: argparse.Namespace, benchmark: str) -> None:
    """Raise an InputError for several minimum scores if the metrics of the benchmark do not depend on them."""
    from mdqe.evaluation.benchmarks import TUBES

    if isinstance(args.score_threshold, tuple) and benchmark not in TUBES:
        raise InputError(f"several score thresholds are for {', '.join(TUBES)}; the benchmark is {benchmark}")


def choose_threshold(args: argparse.Namespace, annotations: Any, results: Any) -> Sweep | None:
    """Try the minimum scores of --score-threshold, if there are several, and set it to the best one."""
    if not isinstance(args.score_threshold, tuple):
        return None
    from mdqe.evaluation.thresholds import best_threshold, sweep_thresholds

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the comparison prints them
        found = sweep_thresholds(annotations, results, args.score_threshold)
    args.score_threshold = best_threshold(found)
    return found


def sweep_table(sweep: Sweep, chosen: float) -> str:
    """A line for each minimum score, and the suggestion."""
    from mdqe.cli.evaluate_table import aligned, percent

    rows: list[Sequence[str]] = [("score ≥", "tracks", *_COLUMNS, "switches")]
    for level, one in sweep.items():
        values = (percent(one[key]) for key in _COLUMNS)
        rows.append((f"{level:g}{' *' if level == chosen else ''}", str(one["tracks"]), *values, str(one["IDSW"])))
    return f"{aligned(rows)}\n{suggestion(sweep, chosen)}"


def suggestion(sweep: Sweep, chosen: float) -> str:
    """Which minimum score to use, in one line."""
    from mdqe.cli.evaluate_table import percent

    highest = sweep[chosen]["HOTA"]
    if highest < 0:
        return "No score can be suggested, because there are no objects"
    if all(one["HOTA"] == highest for one in sweep.values()):
        return f"No score can be suggested, because HOTA is {percent(highest)} at each of them"
    edges = {min(sweep): ", the lowest of those compared", max(sweep): ", the highest of those compared"}
    return (
        f"HOTA is highest at a score of {chosen:g} ({percent(highest)}){edges.get(chosen, '')}: on other "
        "videos, use "
        f"--score-threshold {chosen:g}. Choose it on a validation set, not on the set that you report"
    )
