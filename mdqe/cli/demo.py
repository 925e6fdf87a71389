"""`mdqe demo`: the whole way from a video file to an overlay, on a scene whose truth is known."""

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdqe.cli import say
from mdqe.cli.model_options import add_model_arguments, load_model, model_name

if TYPE_CHECKING:
    from mdqe.data.synthetic import Drawing
    from mdqe.results.instances import VideoInstances

HELP = "draw a scene, segment it and compare the result with the truth"
EXAMPLE = "mdqe demo -o mdqe-demo"
FPS = 12
FILES = ("overlay.mp4", "sheet.png", "instances.json", "clip.mp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path("mdqe-demo"), help="results (default: %(default)s)"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw a scene that no training has seen, segment it as `mdqe segment` would, and score what was found."""
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
    for remark in outcome.remarks:
        say(remark)
    print(f"instances: {outcome.found}")
    print(f"speed: {outcome.frames / outcome.seconds:.1f} frames/s")
    for line in score(VideoInstances.load(args.output / "instances.json"), scene):
        print(line)
    for name in FILES:
        print(args.output / name)
    return outcome.status


def score(result: "VideoInstances", scene: "Drawing") -> list[str]:
    """Lines that compare what was found with what was drawn, by category where the model's are the scene's."""
    from mdqe.data.synthetic_files import document_of
    from mdqe.evaluation import evaluate

    truth = document_of([scene])
    names = {category["name"]: category["id"] for category in truth["categories"]}
    if not set(result.categories) <= set(names):
        return ["no scores: the model finds other categories than the scene's, " + ", ".join(names)]
    found = result.to_ytvis(1, [names[name] for name in result.categories])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nothing was found is said already
        numbers: dict[str, Any] = evaluate(truth, found)
    shown = [f"{name} {100 * numbers[name]:.1f}" for name in ("AP", "AP50", "HOTA", "IDF1")]
    return [
        f"against the truth, {len(truth['annotations'])} shapes: {', '.join(shown)}, identity switches "
        f"{numbers['IDSW']:.0f}"
    ]
