"""`mdqe app`: a web page on which visitors upload videos and see the instances."""

import argparse
import os
import re
import tempfile
from functools import partial
from pathlib import Path

from mdqe.cli import say
from mdqe.cli.app_hosts import Hosts, host_name
from mdqe.cli.options import add_model_arguments, load_models, option, whole

HELP = "start a web app: upload a video, view its instances, download the results"
EXAMPLE = "mdqe app --model models/r50_ovis --max-upload 500"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    group = parser.add_argument_group("server")
    host = "address to listen on; 0.0.0.0 accepts connections from other machines, without a password"
    option(group, "--host", "ADDRESS", str, host, default="127.0.0.1")
    option(group, "--port", "NUMBER", whole(0, 65535), "port to listen on; 0 selects a free port", default=7860)
    name = "host name or address that visitors use, if it is not that of --host (a proxy, a container); repeatable"
    option(group, "--allow-host", "NAME", _host, name, action="append")
    option(group, "--max-upload", "MB", whole(1, 10**6), "maximum size of an upload in MB", default=200)
    add_model_arguments(parser, several=True, default=True)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Uploads and results are in a temporary folder, which is deleted at the end."""
    from mdqe.cli.app_guard import Guard
    from mdqe.cli.app_server import listen, require_gradio, serve

    with listen(args.host, args.port) as socket, tempfile.TemporaryDirectory(prefix="mdqe-app-") as folder:
        _confine_gradio(folder)
        require_gradio()
        from mdqe.cli.app_page import Service, calls, page

        service = Service(load_models(args), Path(folder))
        blocks, hosts = page(service), Hosts(args.host, args.allow_host or ())
        filtered = {"hosts": hosts, "calls": calls(blocks, service.models), "max_upload": args.max_upload}
        host, port = socket.getsockname()[:2]
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        say("press Ctrl-C to stop the server")
        with service.cleaning():
            serve(blocks, partial(Guard, folder=Path(folder), **filtered), socket, args.max_upload)
    return 0


def _host(text: str) -> str:
    """A host name or an address, without a port."""
    name = host_name(text)
    if name is None or not re.fullmatch(r"\[.*\]|[^:]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name or an address, such as app.example.org")
    return name


def _confine_gradio(folder: str) -> None:
    """Set the variables that Gradio reads on import: it writes to this folder only, and sends no statistics."""
    os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
