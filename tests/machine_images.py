"""Images for tests made of this machine's own programs with what they load: no registry is asked for anything.

A program's image holds it, its libraries and busybox; Python's also the standard library, where it is here.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.docker_images import add_file, root_file_system

_TIMEOUT_S = 120.0
_NOT_NEEDED = {"__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages"}
_WHEELS = Path("/usr/share/python-wheels")
"""Where Debian keeps pip for new virtual environments."""


def program_image(tag: str, name: str, *changes: str) -> None:
    """Make `tag`, an image of the program `name`; `changes` are Dockerfile lines."""
    program = Path(require(name))
    _import(tag, [program, *libraries([program])], f"ENV PATH={program.parent}:/bin", *changes)


def python_image(tag: str, *changes: str, loads: Iterable[Path] = ()) -> None:
    """Make `tag`, an image of the Python that runs this, in which virtual environments can be made.

    `loads` are binary modules of others whose libraries shall be there too.
    """
    program = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}").resolve()
    library = list(_standard_library())
    binaries = [path for path in library if ".so" in path.name]
    files = [program, *library, *libraries([program, *binaries, *loads])]
    if _WHEELS.is_dir():
        files += _WHEELS.iterdir()
    _import(tag, files, f"ENV PATH={program.parent}:/bin:/usr/bin", *changes, links={"bin/python3": str(program)})


def require(name: str) -> str:
    """Where the program is; else the test is left out, saying why."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} program is installed; `make test` installs it where it may")
    return found


def libraries(binaries: Iterable[Path]) -> list[Path]:
    """What these are linked with, the loader included; wheels bring some of theirs along, and those are left out."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    found = {Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)}
    return sorted(path for path in found if "site-packages" not in path.parts)


def _standard_library() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and not _NOT_NEEDED & set(parts) and not parts[0].startswith("config-"):
            yield path


def _import(tag: str, files: Iterable[Path], *changes: str, links: dict[str, str] | None = None) -> None:
    lines = [part for change in changes for part in ("--change", change)]
    packed = _packed(files, links or {})
    done = subprocess.run(
        ["docker", "import", *lines, "-", tag], input=packed, capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def _packed(files: Iterable[Path], links: dict[str, str]) -> bytes:
    packed = io.BytesIO(root_file_system())
    with tarfile.open(fileobj=packed, mode="a") as tar:
        add_file(tar, "etc/nsswitch.conf", b"hosts: files dns\n")
        for path in dict.fromkeys(files):
            add_file(tar, str(path).lstrip("/"), path.read_bytes(), mode=0o755)
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return packed.getvalue()
