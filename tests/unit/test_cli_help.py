"""Help: an example everywhere, quick, and without what only commands need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cli.app import app

PROMISED = (
    *("dev", "controller", "agent", "up", "down", "plan", "run", "jobs", "ps", "nodes", "inspect", "why", "events"),
    *("cluster", "scale", "restart", "stop", "rm", "logs", "exec", "top", "validate", "version", "completion"),
    *("what-if", "rebalance", "move"),
    *("cordon", "uncordon", "drain", "node", "brake", "quota", "store", "volume"),
    *("token", "user", "whoami", "can-i", "context", "audit", "ca"),
    *("rollback", "pause", "resume", "promote"),
    *("config", "secret"),
)
COMMANDS = sorted(getattr(get_command(app), "commands"))  # noqa: B009 - typer does not export the group's type


def test_the_commands_that_were_promised() -> None:
    assert sorted(PROMISED) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_an_example(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"podium {name}" in result.stdout.partition("Examples:")[2]


def test_the_first_help_has_examples_and_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "podium up" in result.stdout.partition("Examples:")[2]
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


def test_help_imports_nothing_slow() -> None:
    script = (
        "import json, sys\n"
        "from cli.app import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert "typer" in loaded
    assert not loaded & {
        "asyncio",
        "rich",
        "grpc",
        "google",
        "controller",
        "agent",
        "ruamel",
        "msgspec",
        "numpy",
        "aiohttp",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_documentation(name: str) -> None:
    assert f"`podium {name}" in (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
