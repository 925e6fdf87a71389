"""What a run measures, as CSV tables and, where it is installed, for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdqe.atomic import whole_file


class CsvTable:
    """A CSV file that grows by a row a time; its first column is the step.

    Args:
        path: of the file; it may be there from a run that is resumed.
        start: steps already done: rows of later ones are dropped, as is a row that was cut off.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        rows = self._read()
        kept = [row for row in rows if row[0].isdigit() and int(row[0]) <= start]
        if len(kept) < len(rows):
            self._write(kept)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Add a row; a column that is new to the table is empty in the rows before."""
        new = [name for name in values if name not in self.columns]
        if new:
            rows = self._read()
            self.columns = [*(self.columns or ["step"]), *new]
            self._write([row + [""] * (len(self.columns) - len(row)) for row in rows])
        cells = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([cells.get(name, "") for name in self.columns])

    def _read(self) -> list[list[str]]:
        """The whole rows; sets the columns."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        self.columns = header
        return [row for row in rows if len(row) == len(header)]

    def _write(self, rows: list[list[str]]) -> None:
        with whole_file(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *rows])


class Metrics:
    """The tables of a run's folder: `metrics.csv` of training, `validation.csv`, and the same in `tensorboard/`.

    Args:
        folder: of the run.
        start: steps already done; what a resumed run measured after them is dropped.
        say: takes a line of talk.
    """

    def __init__(self, folder: Path, start: int = 0, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.start = start
        self.tables = {name: CsvTable(folder / f"{name}.csv", start) for name in ("metrics", "validation")}
        self.board = _board(folder / "tensorboard", start, say)

    def write(self, table: str, step: int, values: dict[str, float]) -> None:
        """Add what was measured after `step` steps to "metrics" or "validation".

        Raises:
            OSError: the disk is full, or the like.
        """
        self.tables[table].append(step, values)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{table}/{name}", value, step)

    def close(self) -> None:
        """Write out what TensorBoard's file still lacks."""
        if self.board is not None:
            self.board.close()


def _board(folder: Path, start: int, say: Callable[[str], None]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("metrics go to CSV alone; for TensorBoard too: pip install 'mdqe[train]'")
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
