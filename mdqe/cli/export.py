"""`mdqe export`: a model → torch.export or ONNX programs that run without this package."""

import argparse
from pathlib import Path

from mdqe.cli import say
from mdqe.errors import InputError

HELP = "write a model as torch.export or ONNX programs that run without mdqe"
EXAMPLE = "mdqe export --model models/r50_ovis --format onnx -o exported"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--model", metavar="ID|FOLDER", help="a folder, a Hub id (user/model) or a bundled model (mdqe:NAME)"
    )
    parser.add_argument(
        "--format",
        choices=("torch", "onnx"),
        default="onnx",
        help="torch: .pt2 files for torch.export.load; onnx: files for ONNX Runtime and others (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="folder of the two programs, encoder and decoder, and of model.json, which says what goes in and out",
    )
    parser.add_argument(
        "--opset", metavar="N", type=int, help="version of ONNX's operators, 18 to 23 (default: 20); only for onnx"
    )


def run(args: argparse.Namespace) -> int:
    """Export; the written files go to stdout, the check to stderr."""
    from mdqe.atomic import check_writable
    from mdqe.cli.model_options import default_model
    from mdqe.export.folder import DESCRIPTION_FILE, FORMATS, check_backbone, check_options, export_model
    from mdqe.model import MDQE

    check_options(args.format, args.opset)
    name = args.model or default_model()
    if name is None:
        raise InputError("this installation has no bundled model: name one with --model")
    check_writable(args.output)  # before the model is loaded
    model = MDQE.from_pretrained(name)
    check_backbone(model)
    say(f"{name}: tracing and writing encoder and decoder; takes minutes")
    errors = export_model(model, args.output, format=args.format, opset=args.opset, source=name)
    if errors:
        worst = max(errors, key=lambda output: errors[output])
        say(f"ONNX Runtime equals PyTorch to {errors[worst]:.1e} (relative; {worst})")
    for file in (*(part + FORMATS[args.format] for part in ("encoder", "decoder")), DESCRIPTION_FILE):
        print(args.output / file)
    return 0
