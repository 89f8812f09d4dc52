"""The command with a transport of answers in place of a cluster, and a live task to answer with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from cli.app import app
from cli.command import Surroundings
from client.fake import FakeTransport
from common.model.task import TaskState
from tests.builders import job, task, task_view

NOW_S = 1_900_000_000.0


class Podium:
    """The command with everything around it replaced."""

    def __init__(self, home: Path) -> None:
        self.fake = FakeTransport()
        self.environ = {"HOME": str(home)}

    def run(self, *arguments: str) -> Result:
        around = Surroundings(environ=self.environ, transport=self.fake, clock=lambda: NOW_S)
        return CliRunner().invoke(app, list(arguments), obj=around, catch_exceptions=False)

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def asked(self, method: str) -> Any:
        return next(asked.request for asked in self.fake.asked if asked.method == method)


def live(*, slot: int = 1, state: TaskState = TaskState.RUNNING) -> Any:
    record, _ = job()
    return task_view(task(record, slot, node_id="id-n1", state=state))
