"""The tables of `client.compose.keys` about configs and secrets."""

from __future__ import annotations

from client.compose.section import Section

_NO_TEMPLATES = "its content is given to tasks as it is; put what differs into environment"
_NO_DRIVERS = "Podium keeps it itself"

CONFIG = Section(
    title="a config",
    honoured={
        "file": "a path, read by `podium up`",
        "content": "the text itself",
        "environment": "name of a variable of `podium up`",
        "external": "`true`: it was made with `podium config create`",
        "name": "what the cluster calls it; default: the key",
    },
    ignored={"labels": "nothing in Podium reads them"},
    refused={"template_driver": _NO_TEMPLATES},
)

SECRET = Section(
    title="a secret",
    honoured={
        "file": "a path, read by `podium up`",
        "environment": "name of a variable of `podium up`",
        "external": "`true`: it was made with `podium secret create`",
        "name": "what the cluster calls it; default: the key",
    },
    ignored={"labels": "nothing in Podium reads them"},
    refused={
        "content": "what is written in this file is no secret: use file, environment or external",
        "driver": _NO_DRIVERS,
        "driver_opts": _NO_DRIVERS,
        "template_driver": _NO_TEMPLATES,
    },
)

_USED = {
    "source": "which one, by its key",
    "uid": "a number; default: the user of the container's program",
    "gid": "the same",
}

USED_CONFIG = Section(
    title="a config of a service",
    honoured={
        **_USED,
        "target": "absolute path in the container; default `/SOURCE`",
        "mode": "in octal, e.g. `0440`; default `0444`",
    },
)

USED_SECRET = Section(
    title="a secret of a service",
    honoured={
        **_USED,
        "target": "absolute path in the container, or one below `/run/secrets`; default `/run/secrets/SOURCE`",
        "mode": "in octal, e.g. `0440`; default `0400`",
    },
)
