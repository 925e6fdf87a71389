"""Results in the formats that `mdqe import` reads: `mdqe.writing.formats.write_results`, or `mdqe write`."""

FORMATS = {
    "id-png": "a folder per video of PNG images whose pixel values are object ids",
    "davis": "DAVIS: palette PNG images in Annotations/VIDEO",
    "mots": "MOTS text files VIDEO.txt, with classes car and pedestrian",
    "mots-png": "MOTS images: 16-bit PNG images with 1000 · class + instance, a folder per video",
    "coco": "one JSON file in the form of COCO: images are frames, annotations have a track_id",
    "burst": "one JSON file in the form of BURST: sequences with the masks of each frame",
    "ytvis": "one JSON file of annotations in the form of YouTube-VIS",
    "cvat": "CVAT for video 1.1: VIDEO.xml with tracks of masks or polygons",
    "labelme": "LabelMe: a JSON file per frame in a folder per video, with masks or polygons",
}
"""Descriptions by name. Except for DOCUMENTS, each format is a function `…_files` of a module of this package,
which yields the paths and contents of the files of a video."""

DOCUMENTS = ("coco", "burst", "ytvis")
"""The formats that are one JSON file for all videos."""

OUTLINED = ("cvat", "labelme")
"""The formats that can hold polygons."""
