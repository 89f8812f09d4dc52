"""Lays down the certificates that HAProxy shows: those of the node in its own directory, secrets in memory only.

HAProxy is asked about each new content before it has it. Which certificate a route shows is decided elsewhere.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.memory import leave_memory, make_in_memory
from agent.network.haproxy.certificates import Found, Shelf, Sources, look_up
from agent.network.haproxy.config import CERTIFICATES, certificate_list, trial_of
from agent.network.haproxy.program import Program
from agent.network.haproxy.site import FILES, MEMORY, Certificate, Site
from agent.network.interface import Certificates
from common.errors import Invalid, Unavailable
from common.model.endpoint import Service

NO_MEMORY = "it is a secret, and this machine has no tmpfs to keep it in: name one with podium agent --secrets-dir"
_STAGED = ".new"
_TRIAL, _TRIAL_LIST = "trial.cfg", "trial.list"
_REFUSED_LIMIT = 1_000


class Rack:
    """Of one HAProxy in `directory`. `files` are the node's own certificates; secrets are in `memory`, which is this
    HAProxy's alone, or nowhere."""

    def __init__(self, directory: Path, files: Path | None, memory: Path | None, program: Program) -> None:
        self._directory = directory
        self._files = files
        self._memory = memory
        self._program = program
        self._refused: dict[tuple[str, str], str] = {}

    async def fill(
        self, services: Collection[Service], secrets: Certificates, shown: Iterable[Certificate]
    ) -> tuple[Shelf, dict[str, bytes]]:
        """What is to be shown beside or instead of what is `shown`, and by path the contents that are new. They lie
        where HAProxy reads them, which does not know of them yet. Raises `Unavailable`."""
        before = {one.name: one for one in shown}
        shelf = self._look_up(services, secrets, before)
        fresh = _fresh(shelf, before)
        if fresh and await self._try_out(fresh, shelf.contents):
            shelf = self._look_up(services, secrets, before)
            fresh = _fresh(shelf, before)
        for one in fresh:
            (self._directory / f"{one.path}{_STAGED}").replace(self._directory / one.path)
        return shelf, {one.path: shelf.contents[one.name] for one in fresh}

    def put_list(self, site: Site) -> None:
        """What HAProxy finds with the site's configuration."""
        (self._directory / CERTIFICATES).write_text(certificate_list(site))

    def tidy(self, site: Site) -> None:
        """Delete what is shown no more."""
        shown = {one.path for one in site.certificates}
        for folder in (FILES, MEMORY):
            for file in (self._directory / folder).glob("*"):
                if f"{folder}/{file.name}" not in shown:
                    file.unlink(missing_ok=True)

    def present(self, site: Site) -> Site:
        """The site without the certificates that are not there any more: memory is empty after the machine's start."""
        there = tuple(one for one in site.certificates if (self._directory / one.path).exists())
        return msgspec.structs.replace(site, certificates=there)

    def clear(self) -> None:
        """Leave nothing of them."""
        for name in (CERTIFICATES, _TRIAL, _TRIAL_LIST):
            (self._directory / name).unlink(missing_ok=True)
        shutil.rmtree(self._directory / FILES, ignore_errors=True)
        (self._directory / MEMORY).unlink(missing_ok=True)
        if self._memory is not None:
            for file in self._memory.glob("*"):
                file.unlink(missing_ok=True)
            leave_memory(self._memory)

    # --- what is found

    def _look_up(self, services: Iterable[Service], secrets: Certificates, before: Mapping[str, Certificate]) -> Shelf:
        def kept(name: str) -> Found | None:
            if one := before.get(name):
                with suppress(OSError):
                    return Found((self._directory / one.path).read_bytes(), one.fingerprint)
            return None

        sources = Sources(files=self._files, secrets=secrets, kept=kept, refused=self._refused)
        return look_up(sources, services, time.time())

    # --- what HAProxy says to it

    async def _try_out(self, fresh: list[Certificate], contents: Mapping[str, bytes]) -> bool:
        """Lay them down beside those that are shown, and ask. Whether HAProxy refuses any."""
        staged = [one for one in fresh if self._stage(one, contents[one.name])]
        refused = len(staged) < len(fresh)
        if not staged or not await self._refusal(staged):
            return refused
        for one in staged:
            if text := await self._refusal([one]):
                self._refuse(one, text)
                (self._directory / f"{one.path}{_STAGED}").unlink(missing_ok=True)
        return True

    def _stage(self, one: Certificate, content: bytes) -> bool:
        """False: there is no place for it."""
        try:
            if one.folder == MEMORY:
                self._link_memory()
            else:
                (self._directory / FILES).mkdir(mode=0o700, exist_ok=True)
            path = self._directory / f"{one.path}{_STAGED}"
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(content)
            path.chmod(0o400)
        except Invalid as error:
            self._refuse(one, str(error))
            return False
        except OSError as error:
            raise Unavailable(f"certificates cannot be laid down for HAProxy: {error}") from None
        return True

    def _link_memory(self) -> None:
        """Names of HAProxy's are relative to its directory."""
        if self._memory is None:
            raise Invalid(NO_MEMORY)
        make_in_memory(self._memory, 0o700)
        link = self._directory / MEMORY
        if not link.is_symlink() or link.readlink() != self._memory:
            link.unlink(missing_ok=True)
            link.symlink_to(self._memory)

    async def _refusal(self, staged: Iterable[Certificate]) -> str:
        """Why HAProxy does not take these, all together; empty when it does."""
        (self._directory / _TRIAL_LIST).write_text("".join(f"{one.path}{_STAGED}\n" for one in staged))
        try:
            await self._program.check(trial_of(_TRIAL_LIST), _TRIAL)
        except Unavailable as error:
            return str(error)
        return ""

    def _refuse(self, one: Certificate, text: str) -> None:
        if len(self._refused) >= _REFUSED_LIMIT:
            self._refused.clear()
        self._refused[one.name, one.fingerprint] = text


def _fresh(shelf: Shelf, before: Mapping[str, Certificate]) -> list[Certificate]:
    """Those that HAProxy has another content of, or none."""
    return [one for one in shelf.certificates if one.name not in before or _differ(before[one.name], one)]


def _differ(before: Certificate, after: Certificate) -> bool:
    return (before.path, before.fingerprint) != (after.path, after.fingerprint)
