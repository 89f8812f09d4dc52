"""Lists and deletes volumes."""

from __future__ import annotations

from cli.options import OutputFormat
from cli.output import line, show
from cli.render_json import Plain
from cli.render_table import Grid
from client.client import Client
from common.model.volume import VolumeView


async def ls(client: Client, namespace: str, output: OutputFormat) -> None:
    plain = [_plain(volume) for volume in await client.volumes(namespace)]
    show(output, plain, name=lambda volume: str(volume["name"]), table=lambda: _grid(plain))


async def rm(client: Client, namespace: str, volume: str, node: str) -> None:
    gone = await client.remove_volume(namespace, volume, node)
    line(f"{gone.name} deleted on {gone.node}")


def _plain(volume: VolumeView) -> Plain:
    return {
        "name": volume.name,
        "node": volume.node,
        "jobs": list(volume.jobs),
        "tasks": list(volume.tasks),
        "orphan": not volume.jobs,
    }


def _grid(plain: list[Plain]) -> Grid:
    rows = tuple(
        (
            volume["name"],
            volume["node"],
            ", ".join(volume["jobs"]) or "none: only kept",
            ", ".join(volume["tasks"]) or "-",
        )
        for volume in plain
    )
    return Grid(headings=("VOLUME", "NODE", "JOBS", "TASKS"), rows=rows)
