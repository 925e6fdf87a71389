"""Reading JSON files, and writing files through links, devices and pipes."""

import errno
import os
import stat
from pathlib import Path

import pytest

from mdqe.errors import InputError
from mdqe.files import named_errors, parse_json, read_json, whole_binary_file, whole_file

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "it is nested too deeply"),
        (b'{"a": ' * 200_000, "it is nested too deeply"),
        (b'[{"a": 1, "b": 2, "a": 3}]', "an object has the key 'a' twice"),
        (b'{"a": 1', "is not JSON: "),
        (b"", "is not JSON: "),
        (b'"\xff\xfe\xfa"', "is not JSON: "),
        (b"[" + b"9" * 5000 + b"]", "is not JSON: "),
    ],
)
def test_invalid_documents(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} ") and message in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_valid_documents(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": [1, {"b": null}], "ü": "é"}', encoding="utf-8-sig")
    assert read_json(path) == {"a": [1, {"b": None}], "ü": "é"}
    assert read_json(path, hook=len) == 2
    assert parse_json("[1.5]", "a text") == [1.5]


def test_size_and_kind(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("[1, 2, 3]")
    assert read_json(path, max_bytes=9) == [1, 2, 3]
    with pytest.raises(InputError, match=r"file\.json has 9 bytes; a file of this kind has at most 8"):
        read_json(path, max_bytes=8)
    with pytest.raises(IsADirectoryError):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


@POSIX
@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device, a pipe or a socket"), whole_file(tmp_path / "pipe") as partial:
        partial.write_text("x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and os.listdir(tmp_path) == ["pipe"]


@POSIX
def test_a_device_stays(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root creates devices")
    for path in (device, tmp_path / "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(device)
        with pytest.raises(OSError, match="a device, a pipe or a socket") as caught, whole_file(path) as partial:
            partial.write_text("x")
        assert caught.value.filename == str(path)
    assert stat.S_ISCHR(device.stat().st_mode) and (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "null"]


@POSIX
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target.txt", tmp_path / "link.txt"
    if exists:
        target.write_text("old")
    link.symlink_to(Path("there") / "target.txt")
    with pytest.raises(KeyError), whole_file(link) as partial:
        partial.write_text("broken")
        raise KeyError
    assert target.exists() == exists and (not exists or target.read_text() == "old")
    with whole_file(link, durable=True) as partial:
        partial.write_text("new")
    assert link.is_symlink() and target.read_text() == "new" and link.read_text() == "new"
    assert os.listdir(tmp_path / "there") == ["target.txt"]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder") as caught, whole_file(tmp_path) as partial:
        partial.write_text("x")
    assert caught.value.filename == str(tmp_path)


@POSIX
@pytest.mark.timeout(10)
def test_a_link_or_a_pipe_at_the_partial_path(tmp_path):
    """Writing through the link would change another file, and opening the pipe would wait for ever."""
    other, partial = tmp_path / "other.txt", tmp_path / "file.partial.txt"
    other.write_text("mine")
    for link in (Path.symlink_to, Path.hardlink_to):
        link(partial, other)
        with whole_file(tmp_path / "file.txt") as path:
            path.write_text("new")
        assert other.read_text() == "mine" and (tmp_path / "file.txt").read_text() == "new"
        assert sorted(os.listdir(tmp_path)) == ["file.txt", "other.txt"]
    partial.symlink_to(tmp_path / "nowhere")
    with whole_file(tmp_path / "file.txt") as path:
        path.write_text("newer")
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "other.txt"]
    os.mkfifo(partial)
    with pytest.raises(OSError, match="a device, a pipe or a socket") as caught, whole_file(tmp_path / "file.txt"):
        pass
    assert caught.value.filename == str(partial) and stat.S_ISFIFO(partial.stat().st_mode)
    assert (tmp_path / "file.txt").read_text() == "newer"


def test_a_folder_at_the_partial_path(tmp_path):
    (tmp_path / "file.partial.txt").mkdir()
    with pytest.raises(IsADirectoryError) as caught, whole_file(tmp_path / "file.txt"):
        pass
    assert caught.value.filename == str(tmp_path / "file.partial.txt")


def test_errors_get_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, named_errors(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "file.txt"))
    with pytest.raises(PermissionError) as denied, named_errors(tmp_path / "file.txt"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "other.txt")
    assert denied.value.filename == "other.txt"


@POSIX
def test_errors_of_an_open_file_are_raised_at_the_end(tmp_path):
    """A writer of torch would raise another error, or abort the process, if it met an OSError."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "file.pt").write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught, whole_binary_file(tmp_path / "file.pt") as file:
            for _ in range(100):
                assert file.write(bytes(1000)) == 1000
            done = True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done and caught.value.filename == str(tmp_path / "file.pt")
    assert os.listdir(tmp_path) == ["file.pt"] and (tmp_path / "file.pt").read_text() == "old"
    with pytest.raises(RuntimeError, match="a bug"), whole_binary_file(tmp_path / "file.pt"):
        raise RuntimeError("a bug")
    with whole_binary_file(tmp_path / "file.pt") as file:
        file.write(b"n" * 30_000)
    assert (tmp_path / "file.pt").read_bytes() == b"n" * 30_000
