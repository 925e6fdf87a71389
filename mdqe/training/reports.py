"""Reports of a run: a progress bar on stderr, CSV tables and, where it is installed, TensorBoard."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mdqe.distributed import gather
from mdqe.errors import InputError
from mdqe.files import named_errors, whole_file

SHOWN_LOSSES = ("loss", "class", "box", "mask", "dice")


class Interval:
    """Sums over the steps since the last row of metrics. A checkpoint contains them, so that a resumed run has the rows
    of an uninterrupted one.

    Args:
        state: a result of `state_dict`; None: no steps yet.

    Raises:
        InputError: an invalid state.
    """

    def __init__(self, state: Any = None) -> None:
        self.steps = 0
        self.losses: dict[str, float] = {}
        self.grad_norm = self.seconds = self.waiting = 0.0
        if state is not None:
            self._load(state)

    def add(self, losses: dict[str, float], grad_norm: float, seconds: float, waiting: float) -> None:
        """Add a step, which took `seconds`, of which it waited for clips for `waiting` seconds."""
        self.steps += 1
        self.losses = {name: self.losses.get(name, 0.0) + value for name, value in losses.items()}
        self.grad_norm += grad_norm
        self.seconds += seconds
        self.waiting += waiting

    def means(self) -> dict[str, float]:
        """Averages over the steps and the losses also over the processes; every process must call this."""
        state = self.state_dict()
        losses = {name: value / self.steps for name, value in state["losses"].items()}
        times = {name: state[name] / self.steps for name in ("grad_norm", "seconds", "waiting")}
        return {"loss": sum(losses.values()), **losses, **times}

    def state_dict(self) -> dict[str, Any]:
        """The sums, the losses averaged over the processes; every process must call this."""
        every = gather(self.losses)
        losses = {name: sum(one[name] for one in every) / len(every) for name in self.losses}
        return {**vars(self), "losses": losses}

    def _load(self, state: Any) -> None:
        sums = [state["losses"], {name: state[name] for name in ("grad_norm", "seconds", "waiting")}]
        numbers = [value for one in sums for value in one.values()]
        if type(state["steps"]) is not int or state["steps"] < 0 or not all(type(one) is float for one in numbers):
            raise InputError(f"interval is {str(state)[:60]}, expected a number of steps and sums")
        vars(self).update(steps=state["steps"], losses=dict(sums[0]), **sums[1])


class CsvTable:
    """A CSV file to which rows are appended; its first column is the step.

    Args:
        path: of the file, which exists if the run is resumed.
        start: number of steps already done; later rows are dropped, as is an incomplete row.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        rows = self._read()
        kept = [row for row in rows if row[0].isdigit() and int(row[0]) <= start]
        if self.columns:  # also without later rows: the next row must not continue an incomplete one
            self._write(kept)

    def append(self, step: int, values: dict[str, float]) -> None:
        """Append a row; earlier rows are empty in a new column.

        Raises:
            OSError: the row cannot be written; names the file.
        """
        new = [name for name in values if name not in self.columns]
        if new:
            rows = self._read()
            self.columns = [*(self.columns or ["step"]), *new]
            self._write([row + [""] * (len(self.columns) - len(row)) for row in rows])
        cells = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        with named_errors(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([cells.get(name, "") for name in self.columns])

    def _read(self) -> list[list[str]]:
        """Read the columns, and return the complete rows. Empty lines are skipped."""
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                header, *rows = [row for row in csv.reader(file) if row] or [[]]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{self.path} is not a CSV table: {error}; remove it to continue without it") from error
        if header and header[0] != "step":
            raise InputError(f"{self.path} has the first column {header[0][:40]!r}, expected 'step'; remove it")
        self.columns = header
        return [row for row in rows if len(row) == len(header)]

    def _write(self, rows: list[list[str]]) -> None:
        with whole_file(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *rows])


class EventFile:
    """A new file of TensorBoard with scalars.

    TensorBoard's own writer has a thread, which prints a traceback if the disk is full. Here the caller gets the error.

    Args:
        folder: created if it does not exist.
        start: number of steps already done; TensorBoard hides the later values of older files.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written; names the file.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        with named_errors(self.path):
            self._file = self.path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if start:
            self._write(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add values by name.

        Raises:
            OSError: they cannot be written; names the file.
        """
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summary(value=scalars))

    def close(self) -> None:
        """Close the file."""
        with named_errors(self.path):
            self._file.close()

    def _write(self, **fields: Any) -> None:
        with named_errors(self.path):
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._records.flush()


class Metrics:
    """The tables of a run's folder: `metrics.csv` of training, `validation.csv`, and both in `tensorboard/`.

    Args:
        folder: of the run.
        start: number of steps already done; a resumed run drops later measurements.
        say: prints a line.
    """

    def __init__(self, folder: Path, start: int = 0, say: Callable[[str], None] = print) -> None:
        self.tables = {name: CsvTable(folder / f"{name}.csv", start) for name in ("metrics", "validation")}
        self.board: EventFile | None = None
        try:
            self.board = EventFile(folder / "tensorboard", start)
        except ImportError:
            say("metrics are written to CSV only; for TensorBoard: pip install 'mdqe[train]'")

    def write(self, table: str, step: int, values: dict[str, float]) -> None:
        """Add measurements after `step` steps to "metrics" or "validation".

        Raises:
            OSError: for example, the disk is full; names the file.
        """
        self.tables[table].append(step, values)
        if self.board is not None:
            self.board.add(step, {f"{table}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close the file of TensorBoard."""
        if self.board is not None:
            self.board.close()


class Progress:
    """Progress of a run on stderr, with losses, seconds per step and time left: a bar on a terminal, lines elsewhere.

    Args:
        steps: number of steps of the run.
        start: number of steps already done.
        shown: False to print nothing, as in all processes but the first.
    """

    def __init__(self, steps: int, start: int = 0, *, shown: bool = True) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self.done = start
        self.began = time.monotonic()
        columns, rows = shutil.get_terminal_size((100, 24))  # tqdm draws nothing on a terminal that reports no size
        self.bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            file=sys.stderr,
            disable=None if shown else True,
            smoothing=0.05,
            ncols=columns,
            nrows=rows,
        )

    def advance(self) -> None:
        """Count one step."""
        self.done += 1
        self.bar.update()

    def show(self, values: dict[str, float]) -> None:
        """Show the losses of the last steps."""
        losses = " ".join(f"{name} {values[name]:.3g}" for name in SHOWN_LOSSES if name in values)
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{losses} {values['seconds']:.3g} s/step", refresh=False)
        elif self.shown:
            pace = (time.monotonic() - self.began) / max(self.done - self.start, 1)
            left = timedelta(seconds=round(pace * (self.steps - self.done)))
            self.say(f"step {self.done}/{self.steps}  {losses}  {values['seconds']:.3g} s/step, {left} left")

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self.shown:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Stop updating the bar."""
        self.bar.close()
