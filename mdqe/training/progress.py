"""How far a run is: a bar on stderr with losses, seconds per step and time left; lines where it is no terminal."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import timedelta

from tqdm import tqdm

SHOWN = ("loss", "class", "box", "mask", "dice")


class Progress:
    """Shows steps as they are done.

    Args:
        steps: all of the run.
        start: those done before.
        shown: False for silence, as of every process but one.
    """

    def __init__(self, steps: int, start: int = 0, *, shown: bool = True) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self.done = start
        self.began = time.monotonic()
        columns, rows = shutil.get_terminal_size((100, 24))  # tqdm draws nothing where a terminal claims to have none
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
        """A step is done."""
        self.done += 1
        self.bar.update()

    def show(self, values: dict[str, float]) -> None:
        """The losses of the last steps."""
        losses = " ".join(f"{name} {values[name]:.3g}" for name in SHOWN if name in values)
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{losses} {values['seconds']:.3g} s/step", refresh=False)
        elif self.shown:
            pace = (time.monotonic() - self.began) / max(self.done - self.start, 1)
            left = timedelta(seconds=round(pace * (self.steps - self.done)))
            self.say(f"step {self.done}/{self.steps}  {losses}  {values['seconds']:.3g} s/step, {left} left")

    def say(self, text: str) -> None:
        """A line of talk beside the bar."""
        if self.shown:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """The bar stays as it is."""
        self.bar.close()
