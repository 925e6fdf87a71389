"""Identities and MOTS on 1,000 generated sets each, against TrackEval."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from tie_cases import CLEAR, numbers_of, tied, trackeval_of

from mdqe.evaluation import evaluate
from mdqe.results import rle

pytestmark = pytest.mark.slow
pytest.importorskip("trackeval", exc_type=ImportError)  # or a system library of its OpenCV is missing
CASES = 1000
SIZE = (20, 30)
QUIET = {"PRINT_CONFIG": False}


def test_identities_with_ties():
    for seed in range(CASES):
        case = tied(seed)
        hota, identity, clear = trackeval_of(*case)
        expected = [hota[key].mean() for key in ("HOTA_TP", "AssA", "AssRe", "AssPr")]
        expected += [identity["IDTP"], *(clear[key] for key in CLEAR)]
        assert numbers_of(*case) == pytest.approx(expected, abs=1e-9), seed


def draw(random: np.random.Generator, frames: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of ids of annotations and of results: rectangles that move, cross and vanish, and ignore regions."""
    kinds = random.integers(1, 3, random.integers(0, 5))
    place, speed = random.uniform(2, 18, (len(kinds), 2)), random.uniform(-2, 2, (len(kinds), 2))
    extent, names = random.integers(3, 9, (len(kinds), 2)), [int(1000 * kind + i) for i, kind in enumerate(kinds)]
    truth, results = ([np.zeros(SIZE, int) for _ in range(frames)] for _ in range(2))
    for t in range(frames):
        if random.random() < 0.4:
            top, left = random.integers(0, 20, 2)
            truth[t][top : top + 8, left : left + 10] = 10000
        for i, kind in enumerate(kinds):
            if random.random() < 0.1:
                names[i] = int(1000 * kind + random.integers(10, 19))
            top, left = np.maximum(place[i] + t * speed[i], 0).astype(int)
            if random.random() < 0.85:
                truth[t][top : top + extent[i, 0], left : left + extent[i, 1]] = 1000 * kind + i
            if random.random() < 0.8:
                top, left = np.maximum([top, left] + random.integers(-1, 2, 2) * (random.random() < 0.5), 0)
                height = max(int(extent[i, 0] * random.choice([1, 1, 0.5, 2])), 1)  # an IoU of 0.5 is a match
                results[t][top : top + height, left : left + extent[i, 1]] = names[i]
        if random.random() < 0.4:
            top, left = random.integers(0, 18, 2)
            results[t][top : top + 4, left : left + 6] = 1000 * random.integers(1, 3) + random.integers(20, 23)
    return truth, results


def write(path: Path, images: list[np.ndarray], random: np.random.Generator) -> None:
    lines = []
    for t, image in enumerate(images):
        values = np.unique(image[image > 0])
        for value, counts in zip(values, rle.encode(image == values[:, None, None]), strict=True):
            lines.append(f"{t} {value} {value // 1000} {SIZE[0]} {SIZE[1]} {counts}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(random.permutation(lines)) if lines else "")


def test_mots(tmp_path):
    from trackeval import datasets, metrics

    parts = {"HOTA": metrics.HOTA(), "CLEAR": metrics.CLEAR(QUIET), "Identity": metrics.Identity(QUIET)}
    for seed in range(CASES):
        random, folder = np.random.default_rng(seed), tmp_path / str(seed)
        lengths = {f"{i:04}": int(random.integers(2, 9)) for i in range(random.integers(1, 4))}
        for name, frames in lengths.items():
            for place, images in zip(("gt/label_02", "trackers/t/data"), draw(random, frames), strict=True):
                write(folder / place / f"{name}.txt", images, random)
        lines = [f"{name} empty 000000 {frames - 1:06}\n" for name, frames in lengths.items()]
        (folder / "gt" / "all.seqmap").write_text("".join(lines))
        found = evaluate(folder / "gt", folder / "trackers" / "t" / "data", benchmark="mots")["official"]["trackeval"]
        settings = {"GT_FOLDER": str(folder / "gt"), "TRACKERS_FOLDER": str(folder / "trackers"), "SEQ_INFO": lengths}
        with redirect_stdout(io.StringIO()):
            data = datasets.KittiMOTS({**settings, "OUTPUT_FOLDER": str(folder), **QUIET})
            raw = {name: data.get_raw_seq_data("t", name) for name in lengths}
            for kind in ("car", "pedestrian"):
                ready = {name: data.get_preprocessed_seq_data(one, kind) for name, one in raw.items()}
                for key, part in parts.items():
                    each = {name: part.eval_sequence(one) for name, one in ready.items()}
                    total = {name: np.asarray(one).tolist() for name, one in part.combine_sequences(each).items()}
                    ours = {name: found["COMBINED_SEQ"][kind][key][name] for name in total}
                    assert ours == {name: pytest.approx(one, abs=1e-9) for name, one in total.items()}, (seed, kind)
