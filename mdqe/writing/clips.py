"""The tracks of videos to write, from all kinds of result files, one video at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mdqe.annotations.files import ANNOTATIONS, Loaded, load_json
from mdqe.annotations.problems import Problems
from mdqe.annotations.reader import VIDEOS, Annotations, Track, Video, compress_tracks, read_annotations
from mdqe.annotations.records import MOST_PIXELS, kind
from mdqe.annotations.results import group_results, instance_tracks, read_alone, read_results
from mdqe.errors import InputError, printable
from mdqe.importing.source import image_files, image_folder, numbers
from mdqe.results.instances import VideoInstances

MOST_FRAMES = 10**6
"""Of a video, each of which has a name or a file even if it has no object."""
INSTANCES, RESULTS = "instances.json", "results.json"


class Clip(NamedTuple):
    """A video and the tracks to write."""

    name: str
    """Of the folder of its frames."""
    size: tuple[int, int]
    """H and W."""
    files: list[str]
    """The frames, relative to the folder of the images of all videos."""
    tracks: list[Track]
    """The best score first; masks are compressed RLEs, None where a mask has no pixel."""
    categories: Mapping[int, str]

    @property
    def stems(self) -> list[str]:
        """The names of the frames without folder and extension."""
        return [PurePosixPath(file).stem for file in self.files]

    def category(self, track: Track) -> str:
        """The name of a track's category."""
        return self.categories.get(track.category, f"category {track.category}")

    def objects(self) -> list[Track]:
        """The tracks except for crowds."""
        return [track for track in self.tracks if not track.is_crowd]

    def crowds(self) -> list[Track]:
        """The crowd regions of annotations."""
        return [track for track in self.tracks if track.is_crowd]


class Clips(NamedTuple):
    """Opened results."""

    number: int
    """Of the videos."""
    items: Iterator[Clip]


def open_clips(
    results: Path, notes: Problems, *, data: Path | None = None, images: Path | None = None, threshold: float = 0.0
) -> Clips:
    """The videos of results.

    Args:
        results: instances.json of `mdqe segment`, a folder with folders of these, results or annotations in the form of
            YouTube-VIS, or a folder with results.json or annotations.json.
        notes: receives what is left out.
        data: annotations with the names, frames and categories of results in the form of YouTube-VIS.
        images: the folder of the frames, with a folder per video; for results that do not name their frames.
        threshold: the minimum score of a track.

    Raises:
        OSError, InputError: a file is missing or invalid; the message names it. The items raise them too.
    """
    paths = _instance_files(results)
    if not paths:
        path = next((one for one in _documents(results) if one.is_file()), None)
        if path is None:
            names = f"{INSTANCES}, */{INSTANCES}, {RESULTS} or {ANNOTATIONS}"
            raise FileNotFoundError(f"{results} is not a file, nor a folder with {names}")
        loaded = load_json(path, "results")
        if not (isinstance(loaded.document, Mapping) and "format" in loaded.document):
            videos = _of_document(loaded, data)
            return Clips(len(videos), (_clip(one, images, threshold, notes) for one in _named(videos, notes)))
        paths = [path]
    if data is not None:
        raise InputError(f"{paths[0]} contains the categories of its results; a data set is for {RESULTS}")
    return Clips(len(paths), (_clip(_of_instances(path), images, threshold, notes) for path in paths))


class _Read(NamedTuple):
    """A video as it is in a file."""

    name: str
    file: str
    """What errors call the file."""
    video: Video
    tracks: list[Track]
    categories: Mapping[int, str]
    is_result: bool


def _documents(results: Path) -> list[Path]:
    return [results / RESULTS, results / ANNOTATIONS] if results.is_dir() else [results]


def _instance_files(results: Path) -> list[Path]:
    if not results.is_dir():
        return []
    own = results / INSTANCES
    return [own] if own.is_file() else sorted(results.glob(f"*/{INSTANCES}"))


def _of_instances(path: Path) -> _Read:
    result = VideoInstances.load(path)
    ids = result.category_ids or range(1, 1 + max([len(result.categories), *(result.labels + 1).tolist()]))
    names = {number: result.categories[i] if result.categories else f"class {i}" for i, number in enumerate(ids)}
    tracks = [one._replace(category=ids[one.category]) for one in instance_tracks(result)]
    video = Video(1, result.size, result.num_frames)
    return _Read(path.absolute().parent.name or "video", str(path), video, tracks, names, is_result=True)


def _of_document(loaded: Loaded, data: Path | None) -> list[_Read]:
    name, document = loaded
    if isinstance(document, Mapping) and "videos" in document:
        if data is not None:
            raise InputError(f"{name} contains annotations; a data set is for results")
        annotations = read_annotations(loaded)
        annotations.expect(VIDEOS)
        return _of_annotations(document, annotations)
    if not isinstance(document, list):
        raise InputError(f"{name}: {kind(document)} that is neither {INSTANCES}, results, nor annotations with videos")
    if data is None:
        alone = [(number, read_alone(name, number, rows)) for number, rows in group_results(name, document).items()]
        return [_Read(str(number), name, *read, {}, is_result=True) for number, read in alone]
    annotations = read_annotations(data, hidden=True)
    annotations.expect(VIDEOS)
    found = read_results(loaded, annotations)
    return [
        _Read(_video_name(video), name, video, found.tracks[number], annotations.categories, is_result=True)
        for number, video in annotations.videos.items()
    ]


def _of_annotations(document: Mapping[str, Any], annotations: Annotations) -> list[_Read]:
    """The objects have the "track_id"s of the file where it has whole numbers, as `mdqe import` writes them."""
    given = {one.get("id"): one.get("track_id") for one in document["annotations"]}
    read = []
    for video in annotations.videos.values():
        tracks = [one._replace(id=given[one.id]) if type(given.get(one.id)) is int else one for one in video.objects]
        name = _video_name(video)
        read.append(_Read(name, annotations.name, video, tracks, annotations.categories, is_result=False))
    return read


def _video_name(video: Video) -> str:
    """The folder of the frames, or the id."""
    return PurePosixPath((video.file_names or [""])[0]).parent.name or str(video.id)


def _named(videos: Sequence[_Read], notes: Problems) -> Iterator[_Read]:
    """The videos with names of their own: the id is appended to a name that occurs twice."""
    taken: set[str] = set()
    for one in videos:
        name = one.name
        if name in taken:
            name = f"{name}-{one.video.id}"
            notes.add("videos with the name of another one, renamed", name)
        taken.add(name)
        yield one._replace(name=name)


def _clip(read: _Read, images: Path | None, threshold: float, notes: Problems) -> Clip:
    video, size = read.video, read.video.size
    if not 0 < video.length <= MOST_FRAMES or not 0 < size[0] * size[1] <= MOST_PIXELS:
        raise InputError(
            f"{read.file}: {read.name} has {video.length} frames of {size[1]}x{size[0]}; expected 1 to {MOST_FRAMES} "
            f"frames of 1 to {MOST_PIXELS} pixels"
        )
    tracks = _chosen(read, threshold, notes)
    tracks = [one for one in compress_tracks(read.file, VIDEOS, tracks, size) if any(one.masks)]
    clip = Clip(read.name, size, _files(read, images), tracks, read.categories)
    if len(set(clip.stems)) < video.length:
        raise InputError(f"{read.file}: {read.name} has two frames of the same name; expected names such as 00000.jpg")
    return clip


def _chosen(read: _Read, threshold: float, notes: Problems) -> list[Track]:
    """The tracks to write, the best first; of several results that are one track, the best."""
    best: dict[int, Track] = {}
    for i, track in enumerate(sorted(read.tracks, key=lambda one: -one.score)):
        label = printable(f"{read.name}: {track.label}")
        if track.score < threshold:
            notes.add(f"results with a score below {threshold:g}, left out", label)
        elif not read.is_result:
            best[i] = track
        elif track.id in best:
            notes.add("results of a track that has a better one, left out", label)
        else:
            best[track.id] = track
    return list(best.values())


def _files(read: _Read, images: Path | None) -> list[str]:
    """The frames as the file names them, as they are in the folder of the images, or numbered from 0."""
    if read.video.file_names is not None:
        return read.video.file_names
    if images is None:
        return [f"{read.name}/{t:05}.jpg" for t in range(read.video.length)]
    if not images.is_dir():
        raise FileNotFoundError(f"no such folder: {images}")
    folder = image_folder(images, read.name)
    found = list(image_files(images, folder).values())
    if len(found) != read.video.length:
        raise InputError(f"{folder} has {len(found)} images; {read.name} of {read.file} has {read.video.length} frames")
    return found


def frame_numbers(clip: Clip, notes: Problems) -> list[int]:
    """The numbers at the end of the names of the frames, by which formats name them; otherwise their positions."""
    by_number = numbers(dict(zip(clip.stems, clip.files, strict=True)))
    if len(by_number) == len(clip.files):
        places = {file: number for number, file in by_number.items()}
        return [places[file] for file in clip.files]
    notes.add("videos whose frames are numbered from 0, because their names do not end in numbers", clip.name)
    return list(range(len(clip.files)))


def track_numbers(clip: Clip, tracks: Sequence[Track], least: int, most: int, notes: Problems) -> list[int]:
    """A number from `least` to `most` for each track: the ids of the tracks, if they are such numbers, each once."""
    ids = [track.id for track in tracks]
    if len(set(ids)) == len(ids) and all(least <= number <= most for number in ids):
        return ids
    reason = "some have no track id" if any(number < 0 for number in ids) else f"ids are {least} to {most}"
    notes.add(f"videos whose objects are numbered from {least}, because {reason}", clip.name)
    return list(range(least, least + len(tracks)))
