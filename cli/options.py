"""The options that many commands share, declared once: their names, environment variables and help."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class OutputFormat(enum.Enum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Controller = Annotated[
    str | None,
    typer.Option(
        "--controller",
        metavar="ADDR[,ADDR]",
        help="Controllers to ask [env: PODIUM_CONTROLLER; default: 127.0.0.1:7077].",
        show_default=False,
    ),
]

Insecure = Annotated[
    bool | None,
    typer.Option(
        "--insecure/--no-insecure",
        help="Talk without TLS, also to other machines [env: PODIUM_INSECURE].",
        show_default=False,
    ),
]

Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Namespace of the jobs [env: PODIUM_NAMESPACE; default: default].",
        show_default=False,
    ),
]

Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print.", case_sensitive=False)]

Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="Compose file, several are merged in order [default: compose.yaml, compose.yml, ...].",
        show_default=False,
    ),
]

ProjectName = Annotated[
    str | None,
    typer.Option(
        "--project-name",
        "-p",
        metavar="NAME",
        help="Name of the project, its namespace [default: `name` in the file, else its directory].",
        show_default=False,
    ),
]

Profiles = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="NAME", help="Also deploy services of this profile.", show_default=False),
]

Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait.")]

Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait at most so long.")]
