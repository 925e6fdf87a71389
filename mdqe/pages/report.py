"""The page of `mdqe evaluate`: the metrics, the curves, and the best and worst videos."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from mdqe.pages.document import asset, document
from mdqe.pages.pictures import Pair

COLUMNS = 4  # frames side by side, as in the style sheet
HEAD = ("AP", "AP50", "AP75", "AR10", "HOTA", "IDF1")


class Example(NamedTuple):
    """A video on the page."""

    number: int
    name: str
    pairs: list[Pair]
    command: str
    """The command that makes the page for stepping through the video."""


def rank_videos(per_video: Mapping[int, Mapping[str, float]]) -> list[int]:
    """The ids of the videos that have a score, in ascending order of the score, then of the id."""
    scored = [number for number, one in per_video.items() if one["score"] >= 0]
    return sorted(scored, key=lambda number: (per_video[number]["score"], number))


def report(
    numbers: Mapping[str, Any],
    names: Mapping[int, str],
    worst: Sequence[Example],
    best: Sequence[Example],
    *,
    score_threshold: float,
    curves: bytes | None = None,
    thresholds: bytes | None = None,
    suggestion: str = "",
    groups: str = "",
    left_out: Sequence[str] = (),
) -> bytes:
    """The HTML of an evaluation.

    Args:
        numbers: of `evaluate` with `per_video`.
        names: of the videos, by id.
        worst, best: videos to show, the most extreme first.
        score_threshold: the minimum score of the results that are shown.
        curves: an SVG picture of precision and recall.
        thresholds: an SVG picture of the metrics of identities over the minimum score.
        suggestion: which minimum score to use.
        groups: a table of the groups of a benchmark, as text.
        left_out: lines that name the missing parts of the page, with the reasons.
    """
    parts = ["<h1>Evaluation</h1>", _head(numbers), _uses(numbers, score_threshold)]
    if groups:
        parts.append(f"<pre>{escape(groups)}</pre>")
    parts += [f'<p class="soft">Left out: {escape(line)}.</p>' for line in left_out]
    if curves is not None:
        shown = "Precision over recall, for all categories and by category; the numbers are in precision_recall.csv"
        parts.append("<h2>Precision and recall</h2>" + _picture(curves, "curves", shown))
    if suggestion:
        parts.append(f"<h2>Minimum score</h2><p>{escape(suggestion)}.</p>")
    if thresholds is not None:
        shown = "HOTA, DetA, AssA and IDF1 over the minimum score; the numbers are in score_thresholds.csv"
        parts.append(_picture(thresholds, "curves narrow", shown))
    parts.append("<h2>Categories</h2>" + _categories(numbers["per_category"], score_threshold))
    parts.append(
        '<h2>Videos</h2><p class="soft">The score of a video is 2 Σ IoU / (objects + tracks): objects and tracks of a '
        f"score from {score_threshold:g} are paired one to one within a category. An object is found if the IoU of its "
        "pair is at least 0.5.</p>"
    )
    linked = {one.number for one in (*worst, *best)}
    for title, examples in (("Worst", worst), ("Best", best)):
        if examples:
            parts.append(f"<h2>{title}</h2>")
            parts += [_example(one, numbers["per_video"][one.number]) for one in examples]
    parts.append("<h2>All videos</h2>" + _videos(numbers["per_video"], names, linked))
    return document("Evaluation · mdqe", "\n".join(parts), style=asset("report.css"))


def plain_report(benchmark: str, table: str) -> bytes:
    """The HTML of an evaluation that has only tables.

    Args:
        benchmark: its name.
        table: the tables as text.
    """
    body = f"<h1>Evaluation · {escape(benchmark)}</h1><pre>{escape(table)}</pre>"
    return document("Evaluation · mdqe", body, style=asset("report.css"))


def _head(numbers: Mapping[str, Any]) -> str:
    items = [f"<li><b>{_percent(numbers[key])}</b><span>{key}</span></li>" for key in HEAD if key in numbers]
    if "IDSW" in numbers:
        items.append(f"<li><b>{numbers['IDSW']}</b><span>identity switches</span></li>")
    return f'<ul class="numbers">{"".join(items)}</ul>'


def _uses(numbers: Mapping[str, Any], score_threshold: float) -> str:
    """Which results the numbers use."""
    identity = "HOTA, IDF1, identity switches, " if "HOTA" in numbers else ""
    return (
        f'<p class="soft">AP and AR use all results with their scores. {identity}the scores of videos and the pictures '
        f"use one result per track, with a score of at least {score_threshold:g} (<code>--score-threshold</code>).</p>"
    )


def _picture(svg: bytes, style: str, shown: str) -> str:
    return f'<img class="{style}" src="data:image/svg+xml;base64,{b64encode(svg).decode()}" alt="{shown}">'


def _categories(per_category: Mapping[int, Mapping[str, Any]], score_threshold: float) -> str:
    """A table, and a line on categories whose results are all below the minimum score."""
    listed = [one for one in per_category.values() if one["objects"] or one["results"]]
    columns = [key for key in HEAD if listed and key in listed[0]]
    rows = [
        [
            escape(str(one["name"])),
            *(str(one[key]) for key in ("objects", "results", "tracks")),
            *(_percent(one[key]) for key in columns),
        ]
        for one in listed
    ]
    low = [str(one["name"]) for one in listed if one["objects"] and one["results"] and not one["tracks"]]
    note = ""
    if low and "HOTA" in columns:
        names = escape(", ".join(low[:8]) + (", …" if len(low) > 8 else ""))
        note = (
            f'<p class="soft">No result of {names} has a score of at least {score_threshold:g}, so HOTA and IDF1 are 0 '
            "there, whatever AP is. <code>--score-threshold sweep</code> compares minimum scores.</p>"
        )
    return note + _table(["category", "objects", "results", f"tracks ≥ {score_threshold:g}", *columns], rows)


def _videos(per_video: Mapping[int, Mapping[str, Any]], names: Mapping[int, str], shown: set[int]) -> str:
    rows = []
    ranked = rank_videos(per_video)
    for number in [*ranked, *(one for one in per_video if one not in set(ranked))]:
        one, name = per_video[number], escape(names[number])
        link = f'<a href="#video-{number}">{name}</a>' if number in shown else name
        counts = [str(one[key]) for key in ("objects", "found", "tracks")]
        rows.append(
            [link, str(number), _percent(one["score"]), *counts, _percent(one["AP"]), str(one.get("IDSW", "-"))]
        )
    return _table(["video", "id", "score", "objects", "found", "tracks", "AP", "switches"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are markup."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _example(one: Example, numbers: Mapping[str, Any]) -> str:
    missed, false = numbers["objects"] - numbers["found"], numbers["tracks"] - numbers["found"]
    words = f"{numbers['found']} of {numbers['objects']} objects found, {missed} missed, {false} tracks without one"
    if numbers.get("IDSW"):
        words += f", identity switches: {numbers['IDSW']}"
    name = escape(one.name)

    def row(title: str, pictures: Sequence[str]) -> str:
        shown = "".join(
            f'<img src="{uri}" loading="lazy" alt="{title} of {name}, frame {pair.frame}">'
            for uri, pair in zip(pictures, one.pairs, strict=True)
        )
        return f"<b>{title}</b>{shown}" + "<span></span>" * (COLUMNS - len(one.pairs))

    frames = "".join(f'<span class="soft">frame {pair.frame}</span>' for pair in one.pairs)
    sheet = row("Prediction", [pair.prediction for pair in one.pairs]) + row(
        "Truth", [pair.truth for pair in one.pairs]
    )
    return (
        f'<section id="video-{one.number}"><h3>{name} · score {_percent(numbers["score"])}</h3><p>{words}.</p>'
        + (f'<div class="sheet">{sheet}<span></span>{frames}</div>' if one.pairs else "")
        + f'<p class="soft">Step through it: <code>{escape(one.command)}</code></p></section>'
    )


def _percent(value: float) -> str:
    return "-" if value == -1 else f"{100 * value:.1f}"
