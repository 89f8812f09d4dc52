"""Reads `environment` and `env_file`: what a service's containers find in their environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.compose import keys, optional
from client.compose.document import is_there
from client.compose.dotenv import read_variables
from client.compose.field import Field
from client.compose.report import Report
from client.compose.tree import Fields, shown
from common.errors import Invalid

_RAW: Mapping[str, bool] = {"raw": True}


class EnvironmentReader:
    """Holds what all services of a project share: the variables of the shell and `.env`, and the files read so far."""

    def __init__(self, variables: Mapping[str, str], report: Report) -> None:
        self._variables = variables
        self._report = report
        self._files: dict[tuple[Path, bool], dict[str, str] | str] = {}

    def read(self, environment: Field | None, env_file: Field | None) -> dict[str, str]:
        """Of one service: its files in their order, then `environment` over them.

        A name without a value takes the one of the shell or `.env`; when they have none, it is left out.
        """
        found: dict[str, str] = {}
        for item in _file_items(env_file):
            found.update(self._file(item))
        for name, (value, _) in environment.pairs().items() if environment is not None else ():
            if value is not None:
                found[name] = value
            elif name in self._variables:
                found[name] = self._variables[name]
            else:
                found.pop(name, None)
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
        if (path, raw) not in self._files:
            try:
                self._files[path, raw] = read_variables(path, str(path), self._variables, self._report, raw=raw)
            except Invalid as error:
                self._files[path, raw] = "; ".join(fault.text for fault in error.faults)
        content = self._files[path, raw]
        if isinstance(content, str):
            item.fault(f"{shown(str(path))} {content}")
            return {}
        return content


def _file_items(env_file: Field | None) -> list[Field]:
    if env_file is None:
        return []
    return [env_file] if isinstance(env_file.node, Fields) else env_file.one_or_items()
