"""Frames of many detections: pairs of tracks and detections are assigned without a table of all of them."""

import tracemalloc

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import mdqe
from mdqe.inference import association
from mdqe.inference.association import match_pairs


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_assigned_as_in_a_dense_table(seed, monkeypatch):
    """Also by the solver for large tables, and if all detections want one track."""
    random = np.random.default_rng(seed)
    table = np.where(random.random((60, 50)) < 0.08, random.uniform(0.2, 2, (60, 50)), 0)
    table[:, 7] = random.uniform(0.2, 2, 60)
    rows, columns = np.nonzero(table)
    best = table[linear_sum_assignment(table, maximize=True)].sum()
    for limit in (association.DENSE, 0):
        monkeypatch.setattr(association, "DENSE", limit)
        chosen = match_pairs(rows, columns, table[rows, columns], table.shape)
        assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
        assert table[rows[chosen], columns[chosen]].sum() == pytest.approx(best)
    assert match_pairs(rows[:0], columns[:0], np.zeros(0), (3, 4)).tolist() == []


@pytest.mark.slow
def test_ten_thousand_detections_need_less_than_a_gigabyte():
    """Discs of a few pixels on a grid, which move by a pixel; a table of all pairs alone would have 0.8 GB."""
    linker, peaks = mdqe.Linker(size=(1000, 1000)), []
    for t in range(2):
        begins = ((np.arange(100) * 10 + t)[:, None] * 1000 + np.arange(100) * 10).ravel()
        counts = [[begin, 4, 996, 4, 10**6 - begin - 1004] for begin in begins.tolist()]
        tracemalloc.start()
        ids = linker.push(counts)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert ids.tolist() == list(range(10_000))
    assert max(peaks) < 10**9
