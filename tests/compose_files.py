"""Compose projects for tests: text in, project or lines of faults out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from client.compose import Project, load
from common.errors import Invalid
from common.model.job import JobSpec


class Workspace:
    """A directory with Compose files, loaded under the names `compose.yaml` and so on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def load(
        self,
        *texts: str,
        environment: Mapping[str, str] | None = None,
        profiles: Sequence[str] = (),
        project_name: str | None = "test",
    ) -> Project:
        """The first text as compose.yaml, the others laid over it as over1.yaml, ..."""
        names = ["compose.yaml", *(f"over{place}.yaml" for place in range(1, len(texts)))]
        files = [self.write(name, text) for name, text in zip(names, texts, strict=True)]
        return load(files, project_name=project_name, environment=environment or {}, profiles=profiles)

    def spec(self, *texts: str, environment: Mapping[str, str] | None = None) -> JobSpec:
        """The only one of a project."""
        (spec,) = self.load(*texts, environment=environment).specs
        return spec

    def service(self, text: str, environment: Mapping[str, str] | None = None) -> JobSpec:
        """The spec of one service, given by its keys; it has an image unless it says otherwise."""
        return self.spec(service_file(text), environment=environment)

    def faults(
        self,
        *texts: str,
        environment: Mapping[str, str] | None = None,
        profiles: Sequence[str] = (),
        project_name: str | None = "test",
    ) -> list[str]:
        """What the refusal says, each fault as people read it, without the directory."""
        with pytest.raises(Invalid) as caught:
            self.load(*texts, environment=environment, profiles=profiles, project_name=project_name)
        return [str(fault).replace(f"{self.directory}/", "") for fault in caught.value.faults]

    def service_faults(self, text: str) -> list[str]:
        return self.faults(service_file(text))

    def warnings(self, *texts: str, environment: Mapping[str, str] | None = None) -> list[str]:
        warnings = self.load(*texts, environment=environment).warnings
        return [str(warning).replace(f"{self.directory}/", "") for warning in warnings]


def service_file(text: str) -> str:
    """A project with one service `web`; its keys begin in line 4."""
    keys = "\n".join(f"    {line}" for line in dedent(text).strip().splitlines())
    return f"services:\n  web:\n    image: shop:1.4\n{keys}\n"
