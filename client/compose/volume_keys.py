"""The tables of `client.compose.keys` about volumes."""

from __future__ import annotations

from client.compose.section import Section

VOLUME_ELSEWHERE = "keep data of other systems outside, and give their address in environment"

VOLUME = Section(
    title="a volume",
    honoured={
        "name": "what nodes call it, after the namespace and an underscore; default: its key",
        "driver": "`local`, the only one",
        "external": "`true`: it must be there already, or its tasks wait; Podium makes none. Its name is then "
        "as nodes call it ([volumes.md](volumes.md#volumes-of-others))",
        "x-podium": "what Compose has no word for",
    },
    ignored={"labels": "nothing in Podium reads them"},
    refused={
        "driver_opts": f"a volume is a directory of its node; {VOLUME_ELSEWHERE}",
    },
)

VOLUME_PODIUM = Section(
    title="x-podium of a volume",
    honoured={"shared": "`true`: several tasks may write it at once, on the node that has it; default false"},
)

MOUNT = Section(
    title="a mount",
    honoured={
        "type": "`volume` (default), `bind` or `tmpfs`",
        "source": "a volume's name, or a path of the node",
        "target": "where the container finds it",
        "read_only": "default false; needs an image",
        "volume": "",
        "bind": "",
        "tmpfs": "",
    },
    ignored={"consistency": "it is for file systems that lag behind"},
    refused={"image": "files of another image are not mounted; build them into the service's own"},
)

MOUNT_VOLUME = Section(
    title="volume",
    honoured={},
    ignored={
        "nocopy": "a new volume is filled with what the image has there",
        "labels": "nothing in Podium reads them",
    },
    refused={"subpath": "the whole volume would be mounted; use a volume for each part"},
)

MOUNT_BIND = Section(
    title="bind",
    honoured={},
    ignored={
        "create_host_path": "a path that is not there is refused by the node: a wrong one would be an empty directory",
        "selinux": "labels of files are the node's affair",
    },
    refused={
        "propagation": "what is mounted later on the node or in the container stays there",
        "recursive": "what is mounted below the path always comes with it",
    },
)

MOUNT_TMPFS = Section(
    title="tmpfs",
    honoured={"size": "e.g. `64M`; default: half of the node's memory"},
    ignored={"mode": "it is 1777, as /tmp has it"},
)
