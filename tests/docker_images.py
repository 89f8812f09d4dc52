"""Images for tests, made from Debian's static busybox by an import: no registry, no build, nothing fetched."""

from __future__ import annotations

import fcntl
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

DEFAULT_HOST = "unix:///var/run/docker.sock"
TEST_IMAGE = "podium-test:1"
"""`sh`, `sleep`, `httpd`, `nc`, `wget` and their like, users root and nobody, a shell as command."""
NAMING_IMAGE = "podium-names:1"
"""The same and `bash`, which looks names up as most programs do and reads what comes in a few lines."""
EXPOSED_IMAGE = "podium-exposed:1"
"""The test image, which says that it listens on port 8080."""
_TIMEOUT_S = 60.0


def require_docker(host: str = DEFAULT_HOST) -> str:
    """The host when an engine answers there; else the test is left out, saying why."""
    if shutil.which("docker") is None:
        pytest.skip("no docker program is installed (Debian: apt install docker.io)")
    if _docker(host, "version").returncode != 0:
        pytest.skip(f"no Docker Engine answers at {host}; `make test` starts one where it may")
    return host


def ensure_image(tag: str = TEST_IMAGE, host: str = DEFAULT_HOST, *changes: str) -> str:
    """Have the engine hold the test image under `tag`; `changes` are Dockerfile lines such as `ENV A=1`."""
    return _ensure(tag, host, changes, root_file_system)


def ensure_naming_image(host: str = DEFAULT_HOST) -> str:
    return _ensure(NAMING_IMAGE, host, (), _with_bash)


def ensure_exposed_image(host: str = DEFAULT_HOST) -> str:
    return ensure_image(EXPOSED_IMAGE, host, "EXPOSE 8080")


def _ensure(tag: str, host: str, changes: Iterable[str], content: Callable[[], bytes]) -> str:
    with Path(__file__).open() as lock:  # a second test process would import it again, under the feet of the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _docker(host, "image", "inspect", tag).returncode != 0:
            lines = [part for change in ('CMD ["sh"]', *changes) for part in ("--change", change)]
            imported = _docker(host, "import", *lines, "-", tag, given=content())
            assert imported.returncode == 0, imported.stderr.decode()
    return tag


def remove_image(tag: str, host: str = DEFAULT_HOST) -> None:
    _docker(host, "image", "rm", "--force", tag)


def _docker(host: str, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = ["docker", "--host", host, *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=_TIMEOUT_S, check=False)


def root_file_system() -> bytes:
    """A tar of what is in the test image."""
    busybox = _static_busybox()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        add_file(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        add_file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        add_file(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(temporary)
    return packed.getvalue()


def _with_bash() -> bytes:
    """And the libraries it needs, of this machine."""
    bash = shutil.which("bash")
    assert bash is not None
    said = subprocess.run(["ldd", bash], capture_output=True, text=True, check=True).stdout.split()
    packed = io.BytesIO(root_file_system())
    with tarfile.open(fileobj=packed, mode="a") as tar:
        add_file(tar, "bin/bash", Path(bash).read_bytes(), mode=0o755)
        for path in (word for word in said if word.startswith("/")):
            add_file(tar, path.lstrip("/"), Path(path).read_bytes(), mode=0o755)
        add_file(tar, "etc/nsswitch.conf", b"hosts: files dns\n")
    return packed.getvalue()


def _static_busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("no busybox is installed to make a test image of (Debian: apt install busybox-static)")
    return Path(found)


def add_file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))
