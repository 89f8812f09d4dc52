"""Serving without what read the command line: the order that one life of the process leaves to the next."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from agent.settings import AgentSettings
from cli.resident import Order, Part, order
from common.tls import TlsFiles
from controller.settings import ControllerSettings

TLS = TlsFiles(ca_file="ca.pem", cert_file="cert.pem", key_file="key.pem")


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (
            Part.AGENT,
            AgentSettings(controllers=("a:1", "b:2"), data_dir="/ä", labels={"zone": "eu"}, cpus=0.5, tls=TLS),
        ),
        (Part.CONTROLLER, ControllerSettings(store="sqlite:///a", tls=TLS, insecure=True, long_lived=True)),
    ],
)
def test_settings_arrive_as_they_were_checked(part: Part, settings: AgentSettings | ControllerSettings) -> None:
    written = msgspec.json.encode(order(part, settings, "info"))
    read = msgspec.json.decode(written, type=Order)
    assert (read.part, read.log_level) == (part, "info")
    assert msgspec.json.decode(read.settings, type=type(settings)) == settings


def test_what_serves_holds_nothing_of_the_command_line() -> None:
    script = (
        "import json, sys\n"
        "import cli.main, cli.resident, agent.app, agent.runtime.docker, controller.app\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert {"agent", "controller", "aiodocker"} <= loaded
    assert not loaded & {"typer", "click", "pydantic", "rich", "ruamel"}
