"""`mdqe app`: a page in the browser, where a video is uploaded and its instances are seen."""

import argparse
import os
import tempfile
from pathlib import Path

from mdqe.cli import say
from mdqe.cli.model_options import add_model_arguments, load_models

HELP = "serve a page in the browser: upload a video, see its instances, download them"
EXAMPLE = "mdqe app --model models/r50_ovis --max-upload 500"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="where to listen; 0.0.0.0: to every machine that can reach this one, without a password "
        "(default: %(default)s, this machine alone)",
    )
    group.add_argument(
        "--port", metavar="NUMBER", type=_port, default=7860, help="0: any that is free (default: %(default)s)"
    )
    group.add_argument(
        "--max-upload", metavar="MB", type=_size, default=200, help="largest video file (default: %(default)s)"
    )
    add_model_arguments(parser, several=True)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. What is uploaded and made lies in a temporary folder and goes with it."""
    from mdqe.cli.app_server import listen, require_gradio, serve

    with listen(args.host, args.port) as socket, tempfile.TemporaryDirectory(prefix="mdqe-app-") as folder:
        _keep_to_itself(folder)
        require_gradio()
        from mdqe.cli.app_page import Desk, page

        desk = Desk(load_models(args), Path(folder))
        host, port = socket.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        say("Ctrl-C ends it")
        try:
            serve(page(desk), socket, Path(folder), args.max_upload)
        finally:
            desk.stop_all()
    return 0


def _keep_to_itself(folder: str) -> None:
    """Settings of Gradio, which it reads when it is loaded: its files go to the folder, nothing goes to the net."""
    os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of megabytes of at least 1")
    return int(text)
