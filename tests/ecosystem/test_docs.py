"""Every code block of the pages runs on small files.

`doc_pages` defines the blocks and how one is excluded. Two pages run at a time, each in its own process and folder.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, blocks
from hub_server import TOKEN, HubServer
from world import make_world

pytest.importorskip("sphinx", reason="the pages are tested only with the extra docs")
HERE = Path(__file__).parent
RUN = [page for page in PAGES if any(not block.reason for block in blocks(page))]
MOST_EXCLUDED = 28
PROCESSES = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """A folder with the small `mdqe` and `torchrun`."""
    folder = tmp_path_factory.mktemp("programs")
    for name in ("mdqe", "torchrun"):
        (folder / name).write_text(f"#!{sys.executable}\n" + (HERE / "small_mdqe.py").read_text())
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def hub(world) -> Iterator[HubServer]:
    """A Hub on loopback with the repositories `user/model` and `user/mine` of the pages."""
    with HubServer() as server:
        model = {path.name: path.read_bytes() for path in (world / "COCO_MODEL").iterdir()}
        server.add("user/model", model)
        repository = server.repositories["user/model"]
        repository.refs["v1.0"] = repository.refs["main"]
        yield server


@pytest.fixture(scope="module")
def outcomes(world, programs, hub, tmp_path_factory) -> Iterator[dict[Path, Future]]:
    """The processes that run the pages."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTEST"))}
    variables |= {
        "PATH": os.pathsep.join([str(programs), sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }

    def read(page: Path) -> subprocess.CompletedProcess[str]:
        folder = tmp_path_factory.mktemp(page.stem)
        shutil.copytree(world, folder, dirs_exist_ok=True)
        for block in blocks(page):
            for made in re.findall(r"mdqe make-data -o (\S+)", block.code if not block.reason else ""):
                shutil.rmtree(folder / made, ignore_errors=True)
        command = [sys.executable, str(HERE / "run_page.py"), str(page)]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=500)
        shutil.rmtree(folder)
        return done

    with ThreadPoolExecutor(PROCESSES) as pool:
        yield {page: pool.submit(read, page) for page in RUN}


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_page(page, outcomes):
    done = outcomes[page].result()
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if last.startswith("missing: "):
        pytest.skip(last)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    shown = [f"{page.name}:{block.line}" for block in blocks(page) if not block.reason]
    assert [line for line in done.stderr.splitlines() if line in shown] == shown


def test_few_blocks_are_excluded_and_each_has_a_reason():
    excluded = [block for page in PAGES for block in blocks(page) if block.reason]
    assert len(excluded) <= MOST_EXCLUDED
    assert all(len(block.reason) > 8 for block in excluded)
    said = sum(len(re.findall(r"^ *<!-- (?:not run|before):", page.read_text(), re.MULTILINE)) for page in PAGES)
    used = sum(bool(block.reason) + bool(block.before) for page in PAGES for block in blocks(page))
    assert said == used, "a comment without a block below it"


def test_pages_are_found():
    assert {"README.md", "index.md", "data.md", "training.md"} <= {page.name for page in RUN}


def test_a_block_that_fails_fails_its_page(tmp_path):
    for code, name in (("python\n1 / 0\n", "ZeroDivisionError"), ("bash\nfalse\n", "CalledProcessError")):
        page = tmp_path / "page.md"
        page.write_text(f"# Page\n\n```{code}```\n")
        done = subprocess.run(
            [sys.executable, HERE / "run_page.py", page], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0 and name in done.stderr
    assert ROOT.joinpath("docs", "conf.py").is_file()
