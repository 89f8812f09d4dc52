"""Reads `environment` and `env_file`: what a service's containers find in their environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from client.compose import keys, optional
from client.compose.document import is_there
from client.compose.dotenv import read_variables
from client.compose.field import Field
from client.compose.report import Report
from client.compose.tree import Fields, Mark
from common.errors import Invalid

_RAW: Mapping[str, bool] = {"raw": True}


class EnvironmentReader:
    """Holds what all services of a project share: whose variables count where, and the files read so far."""

    def __init__(self, variables: Callable[[Mark], Mapping[str, str]], report: Report) -> None:
        """`variables` are those of the shell and `.env`, by the place where they are asked for."""
        self._variables = variables
        self._report = report
        self._files: dict[tuple[Path, bool, str], dict[str, str] | str] = {}

    def read(self, environment: Field | None, env_file: Field | None) -> dict[str, str]:
        """Of one service: its files in their order, then `environment` over them.

        A name without a value takes the one of the shell or `.env`; when they have none, it is left out.
        """
        found: dict[str, str] = {}
        for item in _file_items(env_file):
            found.update(self._file(item))
        for name, (value, place) in environment.pairs().items() if environment is not None else ():
            known = value if value is not None else self._variables(place.mark).get(name)
            if known is None:
                found.pop(name, None)
            else:
                found[name] = known
        return found

    def _file(self, item: Field) -> dict[str, str]:
        if not isinstance(item.node, Fields):
            return self._content(item, item.text("a path"), required=True, raw=False)
        given = keys.honoured(item, keys.ENV_FILE)
        if "path" not in given:
            item.fault("path is missing")
            return {}
        required = optional.boolean(given.get("required"), default=True)
        raw = optional.choice(given.get("format"), _RAW, False)
        return self._content(given["path"], given["path"].text("a path"), required=required, raw=raw)

    def _content(self, item: Field, name: str | None, *, required: bool, raw: bool) -> dict[str, str]:
        if name is None:
            return {}
        path = item.node.mark.source.directory / name
        if not required and not is_there(path):
            return {}
        key = (path, raw, item.node.mark.source.name)
        if key not in self._files:
            variables = self._variables(item.node.mark)
            try:
                self._files[key] = read_variables(path, str(path), variables, self._report, raw=raw)
            except Invalid as error:
                self._files[key] = "; ".join(fault.text for fault in error.faults)
        content = self._files[key]
        if isinstance(content, str):
            item.fault(f"{str(path)!r} {content}")  # whole: the end of a long path is what tells files apart
            return {}
        return content


def _file_items(env_file: Field | None) -> list[Field]:
    if env_file is None:
        return []
    return [env_file] if isinstance(env_file.node, Fields) else env_file.one_or_items()
