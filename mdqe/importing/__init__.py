"""Conversion of annotations to YouTube-VIS JSON: `mdqe.importing.formats.import_annotations`, or `mdqe import`."""

FORMATS = {
    "id-png": "a folder per video of PNG images whose pixel values are object ids",
    "davis": "DAVIS: Annotations (palette PNG images) and JPEGImages side by side",
    "coco": "a JSON file in the form of COCO: images are frames, annotations have a track_id",
    "burst": "BURST: a JSON file of sequences, with the masks of each annotated frame",
    "mots": "MOTS text files: a line for each object and frame",
    "mots-png": "MOTS images: 16-bit PNG images with 1000 · class + instance",
    "labelme": "LabelMe: a JSON file per frame; shapes with the same group_id are one object",
    "cvat": "CVAT for video 1.1: XML files of tracks",
}
"""Descriptions by name. Each format is a module of this package, with "_" instead of "-".

The module has `recognises(source)`, and `open_source(source, images, notes)`, which returns the `Source`.
"""
