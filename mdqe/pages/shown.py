"""What a page shows of one video: predicted and annotated tracks, from any of the files that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mdqe.annotations.reading_ import Annotations, Track, Video, read_annotations, read_result, read_results
from mdqe.annotations.records import Loaded, Record, is_number, kind, load_json
from mdqe.errors import InputError
from mdqe.evaluation.overlap import find_damage
from mdqe.results import rle

PREDICTION, TRUTH = "Prediction", "Ground truth"
MOST_PIXELS = 2**28  # of a frame: what browsers draw on


@dataclass(frozen=True)
class Side:
    """Tracks that are shown together: the prediction or the ground truth."""

    name: str
    tracks: list[Track]
    """With compressed run lengths, None where there is no pixel."""
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
    """`every`, `start` and `end` that frames were taken by from their source."""
    partial: bool = False
    """The tracks end before the video does."""


def read_shown(source: Path, annotations: Path | None = None, video: str | None = None) -> Shown:
    """Read one video's tracks.

    Args:
        source: instances.json of `mdqe segment`, results in the form of YouTube-VIS, or annotations.
        annotations: the ground truth for the first two; results also get the names of categories from it.
        video: a video's name (the folder of its frames) or id, where there are several.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is none of these, is damaged, or the video cannot be told; names the file.

    Warns:
        UserWarning: see `read_annotations` and `read_results`.
    """
    shown = _read(load_json(source, "results"), annotations, video)
    if shown.size[0] * shown.size[1] > MOST_PIXELS:
        raise InputError(f"{source}: frames of {shown.size[1]}x{shown.size[0]} are too large for a page")
    return shown


def _read(loaded: Loaded, annotations: Path | None, video: str | None) -> Shown:
    is_object = isinstance(loaded.document, Mapping)
    if is_object and "videos" in loaded.document:
        if annotations is not None:
            raise InputError(f"{loaded.name} holds annotations itself; give results with --annotations {annotations}")
        return _annotated(read_annotations(loaded), video)
    truth = None if annotations is None else read_annotations(annotations, hidden=True)
    if is_object and "format" in loaded.document:
        return _instances(loaded, truth, video)
    if not isinstance(loaded.document, list):
        raise InputError(
            f"{loaded.name}: {kind(loaded.document)} that is neither instances.json of mdqe segment, nor a list of "
            "results, nor annotations with videos"
        )
    return _results_alone(loaded, video) if truth is None else _results(loaded, truth, video)


def sides_of(video: Video, annotations: Annotations, results: tuple[str, list[Track]] | None) -> list[Side]:
    """The sides of a video of a data set, with checked run lengths: results, if given with their file's name; truth.

    Raises:
        ValueError: run lengths that do not decode; names the file, the record and the frame.
    """
    sides = []
    if results is not None:
        name, tracks = results
        sides.append(Side(PREDICTION, numbered(_compressed(name, tracks, video.size)), annotations.categories))
    if annotations.labelled or results is None:
        sides.append(Side(TRUTH, _compressed(annotations.name, video.objects, video.size), annotations.categories))
    return sides


def video_name(video: Video) -> str:
    """The folder of a video's frames; "video" and its id where there is none."""
    folder = PurePosixPath((video.file_names or [""])[0]).parent.name
    return folder or f"video {video.id}"


def numbered(tracks: list[Track]) -> list[Track]:
    """Tracks with ids: their place in the list where the file had none."""
    if any(one.id >= 0 for one in tracks):
        return tracks
    return [replace(one, id=i) for i, one in enumerate(tracks)]


def _annotated(annotations: Annotations, wanted: str | None) -> Shown:
    video = _choose(annotations, wanted)
    return _shown(video, sides_of(video, annotations, None))


def _results(loaded: Loaded, truth: Annotations, wanted: str | None) -> Shown:
    found = read_results(loaded, truth)
    video = _choose(truth, wanted)
    return _shown(video, sides_of(video, truth, (found.name, found.tracks[video.id])))


def _results_alone(loaded: Loaded, wanted: str | None) -> Shown:
    """Results tell the size and length of their video themselves, but no names."""
    rows: dict[int, list[int]] = {}
    for i, row in enumerate(loaded.document):
        rows.setdefault(Record(loaded.name, f"result {i}", row).integer("video_id"), []).append(i)
    number = _choose(Annotations(loaded.name, {i: Video(i, (1, 1), 1) for i in rows}, {}), wanted).id
    size, length = None, 0
    for i in rows[number]:
        record = Record(loaded.name, f"result {i}", loaded.document[i])
        masks = record.items("segmentations")
        length = length or len(masks)
        size = size or next((_size(record, t, one) for t, one in enumerate(masks) if one is not None), None)
    if size is None:
        raise InputError(f"{loaded.name}: no result of video {number} has a mask; its size is not known")
    video = Video(number, size, length)
    bare = Annotations(loaded.name, {number: video}, {})
    tracks = [read_result(loaded.name, i, loaded.document[i], bare)[1] for i in rows[number]]
    return _shown(video, sides_of(video, bare, (loaded.name, tracks)))


def _size(record: Record, frame: int, mask: Any) -> tuple[int, int]:
    size = mask.get("size") if isinstance(mask, Mapping) else None
    if not isinstance(size, list) or len(size) != 2 or not all(type(edge) is int and edge > 0 for edge in size):
        record.fail("segmentations", f"without a size [height, width] in frame {frame}")
    return size[0], size[1]


def _instances(loaded: Loaded, truth: Annotations | None, wanted: str | None) -> Shown:
    from mdqe.results.instances import VideoInstances

    result = VideoInstances.load(loaded.name)
    if not (result.num_frames and all(result.size)):
        raise InputError(f"{loaded.name} holds no frames")
    tracks = [
        Track(f"result {i}", int(label), list(result.runs[i]), float(score), int(number))
        for i, (label, score, number) in enumerate(zip(result.labels, result.scores, result.track_ids, strict=True))
    ]
    names = {i: str(name) for i, name in enumerate(result.categories)}
    sides = [Side(PREDICTION, _compressed(loaded.name, tracks, result.size), names)]
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
        selection={key: given[key] for key in ("every", "start", "end") if is_number(given.get(key))},
        partial=loaded.document.get("complete") is False,
    )
    if truth is None:
        if wanted is not None:
            raise InputError(f"{loaded.name} holds one video; --video is for results and annotations")
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
    """The video of that name or id, or the only one."""
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
        raise InputError(f"{annotations.name} holds no video")
    raise InputError(f"{annotations.name} holds {len(chosen)} such videos; choose one with --video: {listed}")


def _compressed(name: str, tracks: Sequence[Track], size: tuple[int, int]) -> list[Track]:
    """The tracks with compressed counts, None for masks without a pixel."""
    found = []
    for track in tracks:
        held, counts = [], []
        for t, one in enumerate(track.masks):
            if one is not None:
                held.append(t)
                counts.append(one)
        try:
            areas, texts = rle.area(counts, size), rle.texts(counts)
        except (ValueError, TypeError):
            find_damage(name, [track], size)
            raise
        masks: list[Any] = [None] * len(track.masks)
        for t, area, text in zip(held, areas, texts, strict=True):
            masks[t] = text.decode("ascii") if area else None
        found.append(replace(track, masks=masks))
    return found
