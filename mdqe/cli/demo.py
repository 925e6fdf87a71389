"""`mdqe demo`: segments a synthetic video whose ground truth is known, and evaluates the result."""

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.cli import say
from mdqe.cli.options import add_model_arguments, add_output, load_model, model_name

if TYPE_CHECKING:
    from mdqe.data.synthetic import Drawing
    from mdqe.results.instances import VideoInstances

HELP = "generate a synthetic video, segment it and compare the result with the ground truth"
EXAMPLE = "mdqe demo -o mdqe-demo"
FPS = 12
FILES = ("overlay.mp4", "sheet.png", "instances.json", "clip.mp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_output(parser, "DIR", "folder of the results (default: %(default)s)", Path("mdqe-demo"))
    add_model_arguments(parser, default=True)


def run(args: argparse.Namespace) -> int:
    """Segment a scene that is in no training set, as `mdqe segment` does, and print its scores and files."""
    from mdqe.cli.segment_video import Job, segment_video
    from mdqe.data.synthetic import demo_scene
    from mdqe.results.instances import VideoInstances
    from mdqe.video.read import open_frames
    from mdqe.video.write import VideoWriter

    args.output.mkdir(parents=True, exist_ok=True)
    model = load_model(args)
    scene = demo_scene()
    clip = args.output / "clip.mp4"
    with VideoWriter(clip, FPS) as writer:
        for image in scene.frames:
            writer.write(image)
    job = Job(notes={"source": str(clip), "model": model_name(args)})
    outcome = segment_video(model, open_frames(clip), args.output, job)
    if outcome.interrupted:
        raise KeyboardInterrupt
    for remark in outcome.remarks:
        say(remark)
    count, categories = outcome.found or (0, "")
    print(f"{count} instance{'s' * (count != 1)}" + (f": {categories}" if categories else ""))
    print(f"speed: {outcome.frames / outcome.seconds:.1f} frames/s")
    for line in score(VideoInstances.load(args.output / "instances.json"), scene):
        print(line)
    for name in FILES:
        print(args.output / name)
    return outcome.status


def score(result: "VideoInstances", scene: "Drawing") -> list[str]:
    """Lines with the metrics of a result, if the categories of the model are those of the scene."""
    from mdqe.data.synthetic_files import document_of
    from mdqe.evaluation import evaluate

    truth = document_of([scene])
    names = {category["name"]: category["id"] for category in truth["categories"]}
    if not set(result.categories) <= set(names):
        return ["no scores: the model has other categories than the scene: " + ", ".join(names)]
    found = result.to_ytvis(1, [names[name] for name in result.categories])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nothing was found is printed already
        numbers: dict[str, Any] = evaluate(truth, found)
    shown = [f"{name} {100 * numbers[name]:.1f}" for name in ("AP", "AP50", "HOTA", "IDF1")]
    return [
        f"compared with the {len(truth['annotations'])} shapes of the scene: {', '.join(shown)}, identity switches "
        f"{numbers['IDSW']:.0f}"
    ]
