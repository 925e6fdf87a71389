"""Other annotations of videos as YouTube-VIS JSON: `mdqe.importing.formats.import_annotations`, or `mdqe import`."""

FORMATS = {
    "id-png": "a folder per video of PNG images whose pixels are the numbers of objects",
    "davis": "DAVIS: Annotations (palette PNG images) and JPEGImages side by side",
    "coco": "a JSON file in the form of COCO: images that are frames, annotations with a track_id",
    "mots": "MOTS text files: a line for each object and frame",
    "mots-png": "MOTS images: 16-bit PNG images, 1000 times the class plus the number of the object",
    "labelme": "LabelMe: a JSON file per frame; group_id says which shapes are one object",
    "cvat": "CVAT for video 1.1: XML files of tracks",
}
"""What each name stands for. A format is a module of this package, with "_" for "-".

It has `recognises(source)` and `open_source(source, images, notes)`, which gives the `Source`.
"""
