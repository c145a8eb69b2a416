"""Only regular files are read, and the machine's faults are told from a file's."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest
from PIL import Image

from detrex.utils import regular_files
from detrex.utils.regular_files import NotRegularFileError, is_machine_fault, open_regular, raise_machine_fault


@pytest.fixture
def special(tmp_path):
    """Kind -> path."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        yield {
            "a directory": tmp_path / "folder",
            "a named pipe": tmp_path / "pipe",
            "a socket": tmp_path / "socket",
            "a character device": "/dev/zero",
        }


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["a directory", "a named pipe", "a socket", "a character device"])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_refused_and_never_waited_for(kind, linked, special, tmp_path):
    path = special[kind]
    if linked:
        (tmp_path / "link.json").symlink_to(path)
        path = tmp_path / "link.json"
    with pytest.raises(NotRegularFileError, match=f"{path} is {kind}, not a regular file") as caught:
        open_regular(path)
    assert not is_machine_fault(caught.value)


@pytest.mark.timeout(20)
def test_a_pipe_that_takes_the_file_s_place_between_two_looks(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    looks = []

    def regular_at_first(mode, path):
        looks.append(mode)
        if len(looks) > 1:
            require(mode, path)

    require = regular_files._require_regular
    monkeypatch.setattr(regular_files, "_require_regular", regular_at_first)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(NotRegularFileError, match="a named pipe"):
        open_regular(tmp_path / "pipe")
    assert len(looks) == 2
    assert stat.S_ISFIFO(looks[1])
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_read_in_utf8_whatever_the_locale(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("ёж".encode())
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        with open_regular(name, "r") as f:
            assert (f.read(), f.name, f.encoding) == ("ёж", str(name), "utf-8")
    with open_regular(path, "r", encoding="cp1251") as f:
        assert f.read() == "ёж".encode().decode("cp1251")
    with open_regular(path) as f:
        assert f.read() == "ёж".encode()
    for mode in ("w", "r+", "ab"):
        with pytest.raises(ValueError, match="takes"):
            open_regular(path, mode)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EREMOTEIO"])
def test_the_machine_s_faults(name):
    error = OSError(getattr(errno, name), "text")
    assert is_machine_fault(error)
    wrapped = OSError("a.png: cannot read the image")
    wrapped.__cause__ = error
    assert is_machine_fault(wrapped)


def test_memory_is_the_machine_s():
    assert is_machine_fault(MemoryError())
    assert is_machine_fault(OSError("out of memory error when reading image file"))


@pytest.mark.parametrize("name", ["ENOENT", "EACCES", "EISDIR", "ENAMETOOLONG", "EINVAL"])
def test_the_file_s_faults(name):
    assert not is_machine_fault(OSError(getattr(errno, name), "text"))
    assert not is_machine_fault(ValueError("embedded null byte"))
    assert not is_machine_fault(None)


def test_a_decoder_s_error_is_the_file_s(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(OSError, match="truncated") as caught, Image.open(path) as image:
        image.load()
    assert not is_machine_fault(caught.value)


def test_the_machine_s_faults_are_raised_with_the_file_s_name():
    with pytest.raises(OSError, match=r"Input/output error: 'a\.png'") as caught:
        raise_machine_fault(OSError(errno.EIO, "Input/output error"), "a.png")
    assert caught.value.errno == errno.EIO
    with pytest.raises(MemoryError, match=r"a\.png: not enough memory"):
        raise_machine_fault(MemoryError(), "a.png")
    raise_machine_fault(ValueError("bad header"), "a.png")
    raise_machine_fault(FileNotFoundError(errno.ENOENT, "No such file", "a.png"), "a.png")
