"""Whom the program of a container runs as, by number: what the engine's image calls by name is looked up inside it."""

from __future__ import annotations

import io
import tarfile

from agent.runtime.docker_engine import Engine
from agent.runtime.interface import Owner
from common.errors import Invalid, NotFound
from common.model.job import Container
from common.references import parse_reference

_NAME, _ID, _GROUP = 0, 2, 3
"""Fields of a line of `/etc/passwd`; the first two are where `/etc/group` has them."""
_KNOWN_LIMIT = 1_000


class ImageUsers:
    """Remembers what was looked up: an image never changes under its id."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Owner] = {}

    async def of(self, engine: Engine, container: Container) -> Owner | None:
        """None for root, who can read everything. Raises `Invalid` when the image has no such user."""
        image = await engine.image(parse_reference(container.image))
        user = container.user or image.config.user
        name, _, group = user.partition(":")
        if name in ("", "0", "root"):
            return None
        if name.isdecimal() and (group.isdecimal() or not group):
            return Owner(uid=int(name), gid=int(group or 0))
        known = self._known.get((image.id, user))
        if known is None:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            known = self._known[image.id, user] = await _looked_up(engine, image.id, name, group)
        return known


async def _looked_up(engine: Engine, image_id: str, name: str, group: str) -> Owner:
    """Out of a container that is never started."""
    container_id = await engine.create("", {"Image": image_id, "Cmd": ["none"]})
    try:
        users = await _lines(engine, container_id, "/etc/passwd")
        groups = await _lines(engine, container_id, "/etc/group") if group and not group.isdecimal() else []
    finally:
        await engine.delete(container_id)
    user = next((line for line in users if name in (line[_NAME], line[_ID])), None)
    if user is None and not name.isdecimal():
        raise Invalid(f"the image has no user {name}: give its secrets a uid, or the service a user by number")
    uid = int(user[_ID]) if user is not None else int(name)
    if not group:
        return Owner(uid=uid, gid=int(user[_GROUP]) if user is not None else 0)
    found = next((line for line in groups if line[_NAME] == group), None)
    if found is None and not group.isdecimal():
        raise Invalid(f"the image has no group {group}: give its secrets a uid and a gid")
    return Owner(uid=uid, gid=int(found[_ID]) if found is not None else int(group))


async def _lines(engine: Engine, container_id: str, path: str) -> list[list[str]]:
    """Of a file of `:`-separated fields; none when there is no such file."""
    try:
        content = await engine.archive(container_id, path)
    except NotFound:
        return []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        text = "" if file is None else file.read().decode("utf-8", "replace")
    split = (line.split(":") for line in text.splitlines())
    return [fields for fields in split if len(fields) > _GROUP - 1 and fields[_ID].isdecimal()]
