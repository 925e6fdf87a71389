"""`mdqe export`: exports a model as torch.export or ONNX programs that run without this package."""

import argparse

from mdqe.cli import say
from mdqe.cli.options import add_model, add_output, model_name, option

HELP = "export a model as torch.export or ONNX programs that run without mdqe"
EXAMPLE = "mdqe export --model models/r50_ovis --format onnx -o exported"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model(parser, default=True)
    formats = "torch: .pt2 files for torch.export.load; onnx: files for ONNX Runtime and others (default: %(default)s)"
    parser.add_argument("--format", choices=("torch", "onnx"), default="onnx", help=formats)
    add_output(parser, "FOLDER", "folder of the encoder, the decoder and model.json, which describes both")
    option(parser, "--opset", "N", int, "ONNX operator set, 18 to 23 (default: 20)")


def run(args: argparse.Namespace) -> int:
    """Export, and print the files."""
    from mdqe.export.folder import DESCRIPTION_FILE, FORMATS, check_backbone, check_options, export_model
    from mdqe.files import check_writable
    from mdqe.model import MDQE

    check_options(args.format, args.opset)
    name = model_name(args)
    check_writable(args.output)  # before the model is loaded
    model = MDQE.from_pretrained(name, force_download=args.force_download)
    check_backbone(model)
    say(f"{name}: exporting encoder and decoder, which takes minutes")
    errors = export_model(model, args.output, format=args.format, opset=args.opset, source=name)
    if errors:
        worst = max(errors, key=lambda output: errors[output])
        say(f"largest relative difference between ONNX Runtime and PyTorch: {errors[worst]:.1e} ({worst})")
    for file in (*(part + FORMATS[args.format] for part in ("encoder", "decoder")), DESCRIPTION_FILE):
        print(args.output / file)
    return 0
