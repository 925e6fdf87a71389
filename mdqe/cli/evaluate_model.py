"""Runs a model over the videos or images of a set: in this process, in several, or in those of torchrun."""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from mdqe import __version__
from mdqe import distributed as processes
from mdqe.annotations.files import DataFiles
from mdqe.annotations.reader import IMAGES, Annotations, Video
from mdqe.annotations.records import short
from mdqe.cli import progress, say
from mdqe.cli.options import load_config, load_model, model_name, weights_version
from mdqe.errors import InputError
from mdqe.evaluation.coco import require_pycocotools
from mdqe.evaluation.segment_set import (
    check_images,
    label_ids,
    merge,
    results_file,
    segment_image,
    segment_video,
    write_results,
)
from mdqe.files import read_json, whole_file

SETTINGS = "run.json"
_ADDED = ("weights", "images")  # settings that folders of earlier versions do not have
END_SECONDS = 5.0  # that a worker has after SIGTERM


@dataclass(frozen=True)
class Worker:
    """What a process needs to run the model; images are videos of one frame. Each process loads the model itself."""

    args: argparse.Namespace
    annotations: Annotations
    images: Path
    index: int = 0
    number: int = 1

    def load(self) -> tuple[Any, list[int]]:
        """The model and the data set's category ids by label."""
        model = load_model(self.args, self.index, self.number)
        return model, label_ids(model.config, self.annotations)

    def videos(self, videos: list[Video]) -> Iterator[int]:
        """Run the model on videos and write the results of each; yields their ids."""
        if videos:
            model, ids = self.load()
        for video in videos:
            self.one(model, video, ids)
            yield video.id

    def one(self, model: Any, video: Video, ids: list[int]) -> None:
        """Run the model on a video and write its results."""
        segment = segment_image if self.annotations.layout == IMAGES else segment_video
        path = results_file(self.args.output, self.annotations, video.id)
        write_results(path, segment(model, video, self.images, ids))

    def left(self, videos: list[Video]) -> list[Video]:
        """The videos that have no results yet."""
        return [one for one in videos if not results_file(self.args.output, self.annotations, one.id).exists()]


def run_model(args: argparse.Namespace, files: DataFiles, annotations: Annotations) -> list[dict[str, Any]] | None:
    """Run the model on every video or image that has no results yet.

    Args:
        args: of the command.
        files, annotations: the set.

    Returns:
        All results; None in the processes of torchrun but the first.

    Raises:
        OSError, InputError: images, or something of the model, are missing or invalid. This is found before any work.
        DependencyError: the annotations are of images, and pycocotools is not installed.
    """
    if annotations.layout == IMAGES and any(annotations.objects):
        require_pycocotools()
    check_images(annotations, files.images)
    if processes.started() > 1 and args.workers > 1:
        raise InputError("--workers is for one process; torchrun has started several already")
    _check_settings(args, files)
    videos = [annotations.videos[number] for number in sorted(annotations.videos)]
    worker, noun = Worker(args, annotations, files.images), annotations.layout.noun
    with processes.sharing():
        left = {video.id for video in worker.left(videos)}
        left = processes.gather(left)[0]  # a fast process may already have written results
        if processes.rank() == 0 and len(left) < len(videos):
            say(f"{len(videos) - len(left)} of {len(videos)} {noun}s are done already")
        mine = processes.share([video for video in videos if video.id in left])
        workers = min(args.workers, len(mine))
        if workers > 1:
            done = _run_workers(replace(worker, number=workers), mine)
        else:
            index, number = processes.local()
            done = replace(worker, index=index, number=number).videos(mine)
        part = f", part {processes.rank() + 1} of {processes.ranks()}" if processes.ranks() > 1 else ""
        for _ in progress(done, f"segmenting{part}", len(mine), noun):
            pass
        processes.wait_for_all()
        if processes.rank() > 0:
            return None
    return merge(args.output, annotations)


_state: tuple[Worker, Any, list[int]]  # of a worker process
_terminated = False


def _start_worker(worker: Worker, counter: Any) -> None:
    global _state
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it immediately, without a message
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with counter.get_lock():
        index = counter.value
        counter.value += 1
    worker = replace(worker, index=index)
    _state = (worker, *worker.load())
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: Any) -> NoReturn:
    """End the current video, whose partial file is removed; the pool asks for more, and `_run_one` refuses."""
    global _terminated
    _terminated = True
    sys.exit(1)


def _end_with_parent() -> None:
    """Wait for the end of the parent process, which may have been killed, and end this worker."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_one(video: Video) -> int:
    if _terminated:
        sys.exit(1)
    worker, model, ids = _state
    worker.one(model, video, ids)
    return video.id


def _run_workers(worker: Worker, videos: list[Video]) -> Iterator[int]:
    """Distribute the videos over processes, longest first; yields the ids of completed videos."""
    context = multiprocessing.get_context("spawn")
    worker = replace(worker, annotations=worker.annotations.bare())
    started = worker, context.Value("i", 0)
    pool = ProcessPoolExecutor(worker.number, mp_context=context, initializer=_start_worker, initargs=started)
    try:
        order = sorted(videos, key=lambda video: -video.length)
        plain = [Video(video.id, video.size, video.length, video.file_names) for video in order]
        for future in as_completed([pool.submit(_run_one, video) for video in plain]):
            yield future.result()
    except KeyboardInterrupt:  # not from the terminal, which sends it to the workers too
        pool.shutdown(wait=False, cancel_futures=True)
        _end_workers()
        raise
    except BrokenProcessPool:
        raise OSError(
            "a worker process ended unexpectedly, perhaps out of memory; completed results are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)  # videos in progress are finished


def _end_workers() -> None:
    """Send SIGTERM to the workers, and SIGKILL to those that have not ended after a few seconds."""
    workers = multiprocessing.active_children()
    for process in workers:
        process.terminate()
    deadline = time.monotonic() + END_SECONDS
    for process in workers:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


def _check_settings(args: argparse.Namespace, files: DataFiles) -> None:
    """Raise an InputError if the folder has results of another model or set; else write the settings of this run."""
    config = load_config(args)  # what an option that is not given means
    settings = {
        "model": model_name(args),
        "weights": weights_version(args),
        "data": str(files.annotations.resolve()),
        "images": str(files.images.resolve()),
        "shorter_edge": config.test_shorter_edge,
        "relink": config.relink,
        "dtype": args.dtype,
        "mdqe": __version__,
    }
    note = args.output / SETTINGS
    args.output.mkdir(parents=True, exist_ok=True)
    if note.exists():
        before = read_json(note)
        if not isinstance(before, dict):
            raise InputError(f"{note} is not an object of settings")
        for key, value in settings.items():
            if key in _ADDED and key not in before:
                continue
            found = before.get(key)
            if found != value:
                shown = repr(found) if isinstance(found, str) else short(found)  # paths may differ only in their ends
                raise InputError(
                    f"{args.output} contains results with {key} {shown}, now it is {value!r}: choose another folder or "
                    "remove it"
                )
    elif os.environ.get("RANK", "0") == "0":
        with whole_file(note) as partial:
            partial.write_text(json.dumps(settings, indent=1) + "\n")
