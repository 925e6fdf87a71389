"""The predicted and annotated tracks of one video that a page shows, from all kinds of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mdqe.annotations.files import Loaded, load_json
from mdqe.annotations.reader import VIDEOS, Annotations, Track, Video, compress_tracks, read_annotations
from mdqe.annotations.records import is_finite, kind
from mdqe.annotations.results import group_results, instance_tracks, read_alone, read_results
from mdqe.errors import InputError

PREDICTION, TRUTH = "Prediction", "Ground truth"
MOST_PIXELS = 2**28  # of a frame; browsers cannot draw more


@dataclass(frozen=True)
class Side:
    """The tracks of the prediction or of the ground truth."""

    name: str
    tracks: list[Track]
    """With compressed RLEs, None where a mask has no pixel."""
    categories: Mapping[int, str]

    def category(self, track: Track) -> str:
        """The name of a track's category."""
        return self.categories.get(track.category, f"category {track.category}")


@dataclass(frozen=True)
class Shown:
    """One video and its sides, at least one."""

    name: str
    size: tuple[int, int]
    """(height, width) of the masks."""
    length: int
    sides: list[Side]
    file_names: list[str] | None = None
    fps: float | None = None
    first_frame: int = 0
    selection: Mapping[str, Any] = field(default_factory=dict)
    """`every`, `start` and `end`, by which the frames were selected from their source."""
    partial: bool = False
    """Whether the tracks end before the video."""


def read_shown(source: Path, annotations: Path | None = None, video: str | None = None) -> Shown:
    """Read one video's tracks.

    Args:
        source: instances.json of `mdqe segment`, results in the form of YouTube-VIS, or annotations.
        annotations: the ground truth of instances or results, and the names of the results' categories.
        video: the name (the folder of the frames) or id of the video, if there are several.

    Raises:
        OSError: a file cannot be read.
        InputError: a file has another format or is damaged, or there are several videos. The message names the file.

    Warns:
        UserWarning: see `read_results`.
    """
    shown = _read(load_json(source, "results"), annotations, video)
    if shown.size[0] * shown.size[1] > MOST_PIXELS:
        raise InputError(f"{source}: frames of {shown.size[1]}x{shown.size[0]} are too large for a page")
    return shown


def _read(loaded: Loaded, annotations: Path | None, video: str | None) -> Shown:
    is_object = isinstance(loaded.document, Mapping)
    if is_object and "videos" in loaded.document:
        if annotations is not None:
            raise InputError(f"{loaded.name} contains annotations; give results with --annotations {annotations}")
        read = _read_truth(loaded)
        chosen = _choose(read, video)
        return _shown(chosen, sides_of(chosen, read, None))
    truth = None if annotations is None else _read_truth(annotations, hidden=True)
    if is_object and "format" in loaded.document:
        return _instances(loaded, truth, video)
    if not isinstance(loaded.document, list):
        raise InputError(
            f"{loaded.name}: {kind(loaded.document)} that is neither instances.json of mdqe segment, nor a list of "
            "results, nor annotations with videos"
        )
    return _results_alone(loaded, video) if truth is None else _results(loaded, truth, video)


def sides_of(video: Video, annotations: Annotations, results: tuple[str, list[Track]] | None) -> list[Side]:
    """The sides of a video of a data set: the results, if given with the name of their file, and the ground truth.

    Raises:
        InputError: masks are invalid. The message names the file, the record and the frame.
    """
    parts = [] if results is None else [(PREDICTION, *results)]
    if results is None or any(annotations.objects):
        parts.append((TRUTH, annotations.name, video.objects))
    return [
        Side(side, _numbered(compress_tracks(name, VIDEOS, tracks, video.size)), annotations.categories)
        for side, name, tracks in parts
    ]


def video_name(video: Video) -> str:
    """The folder of a video's frames, or "video" and its id if there is none."""
    folder = PurePosixPath((video.file_names or [""])[0]).parent.name
    return folder or f"video {video.id}"


def _numbered(tracks: list[Track]) -> list[Track]:
    """Tracks with ids: their positions in the list if the file has none."""
    if any(one.id >= 0 for one in tracks):
        return tracks
    return [one._replace(id=i) for i, one in enumerate(tracks)]


def _read_truth(source: Path | Loaded, *, hidden: bool = False) -> Annotations:
    annotations = read_annotations(source, hidden=hidden)
    annotations.expect(VIDEOS)
    return annotations


def _results(loaded: Loaded, truth: Annotations, wanted: str | None) -> Shown:
    found = read_results(loaded, truth)
    video = _choose(truth, wanted)
    return _shown(video, sides_of(video, truth, (found.name, found.tracks[video.id])))


def _results_alone(loaded: Loaded, wanted: str | None) -> Shown:
    """Results contain the size and the length of their video, but no names."""
    rows = group_results(loaded.name, loaded.document)
    videos = {number: Video(number, (1, 1), 1) for number in rows}
    number = _choose(Annotations(loaded.name, VIDEOS, videos, {}), wanted).id
    video, tracks = read_alone(loaded.name, number, rows[number])
    annotations = Annotations(loaded.name, VIDEOS, {number: video}, {})
    return _shown(video, sides_of(video, annotations, (loaded.name, tracks)))


def _instances(loaded: Loaded, truth: Annotations | None, wanted: str | None) -> Shown:
    from mdqe.results.instances import VideoInstances

    result = VideoInstances.load(loaded.name)
    if not (result.num_frames and all(result.size)):
        raise InputError(f"{loaded.name} contains no frames")
    tracks = instance_tracks(result)
    names = {i: str(name) for i, name in enumerate(result.categories)}
    sides = [Side(PREDICTION, compress_tracks(loaded.name, VIDEOS, tracks, result.size), names)]
    given = loaded.document.get("settings")
    given = given if isinstance(given, Mapping) else {}
    source = loaded.document.get("source")
    name = PurePosixPath(source).name if isinstance(source, str) else ""
    shown = Shown(
        name or Path(loaded.name).parent.name or loaded.name,
        result.size,
        result.num_frames,
        sides,
        fps=result.fps,
        first_frame=result.first_frame,
        selection={key: given[key] for key in ("every", "start", "end") if is_finite(given.get(key))},
        partial=loaded.document.get("complete") is False,
    )
    if truth is None:
        if wanted is not None:
            raise InputError(f"{loaded.name} contains one video; --video is for results and annotations")
        return shown
    video = _choose(truth, wanted)
    if (video.size, video.length) != (shown.size, shown.length):
        raise InputError(
            f"{loaded.name} has {_extent(shown.size, shown.length)}; video {video.id} of {truth.name} has "
            f"{_extent(video.size, video.length)}"
        )
    return replace(shown, sides=[*sides, *sides_of(video, truth, None)], file_names=video.file_names)


def _extent(size: tuple[int, int], length: int) -> str:
    return f"{length} frames of {size[1]}x{size[0]}"


def _shown(video: Video, sides: list[Side]) -> Shown:
    return Shown(video_name(video), video.size, video.length, sides, video.file_names)


def _choose(annotations: Annotations, wanted: str | None) -> Video:
    """The video with this name or id, or the only one."""
    videos = list(annotations.videos.values())
    if wanted is not None:
        named = [one for one in videos if one.file_names and video_name(one) == wanted]
        chosen = named or [one for one in videos if str(one.id) == wanted]
    else:
        chosen = videos
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(f"{one.id}" + f" ({video_name(one)})" * bool(one.file_names) for one in (chosen or videos)[:6])
    listed += ", …" * (len(chosen or videos) > 6)
    if wanted is not None and not chosen:
        raise InputError(f"{annotations.name} has no video {wanted!r}; it has {listed or 'none'}")
    if not videos:
        raise InputError(f"{annotations.name} contains no video")
    raise InputError(f"{annotations.name} contains {len(chosen)} videos; choose one with --video: {listed}")
