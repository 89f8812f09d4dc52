"""The engine's answers as values: only the fields we read, spelled as the engine spells them."""

from __future__ import annotations

import msgspec


class ContainerState(msgspec.Struct, frozen=True, rename="pascal"):
    running: bool = False
    paused: bool = False
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class HostConfig(msgspec.Struct, frozen=True, rename="pascal"):
    memory: int = 0


class NetworkSettings(msgspec.Struct, frozen=True, rename="pascal"):
    ports: dict[str, list[dict[str, str]] | None] | None = None


class Inspection(msgspec.Struct, frozen=True, rename="pascal"):
    """`containers/ID/json`, what we need of it."""

    id: str
    state: ContainerState
    config: ContainerConfig = ContainerConfig()
    host_config: HostConfig = HostConfig()
    network_settings: NetworkSettings = NetworkSettings()


class ImageConfig(msgspec.Struct, frozen=True, rename="pascal"):
    user: str = ""
    exposed_ports: dict[str, object] | None = None
    """By `80/tcp`."""


class ImageInspection(msgspec.Struct, frozen=True, rename="pascal"):
    """`images/NAME/json`, what we need of it."""

    id: str
    config: ImageConfig = ImageConfig()


class Listed(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry of `containers/json`."""

    id: str
    labels: dict[str, str] | None = None


class ListedVolume(msgspec.Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class ListedVolumes(msgspec.Struct, frozen=True, rename="pascal"):
    """`volumes`."""

    volumes: list[ListedVolume] | None = None


class EventActor(msgspec.Struct, frozen=True):
    id: str = msgspec.field(default="", name="ID")


class Event(msgspec.Struct, frozen=True):
    """One line of `events`."""

    actor: EventActor = msgspec.field(default=EventActor(), name="Actor")
    time_ns: int = msgspec.field(default=0, name="timeNano")


class CpuUsage(msgspec.Struct, frozen=True):
    total_usage: int = 0


class CpuStats(msgspec.Struct, frozen=True):
    cpu_usage: CpuUsage = CpuUsage()


class MemoryStats(msgspec.Struct, frozen=True):
    usage: int = 0
    stats: dict[str, int] | None = None


class PidsStats(msgspec.Struct, frozen=True):
    current: int | None = 0


class Stats(msgspec.Struct, frozen=True):
    """`containers/ID/stats`, one shot."""

    cpu_stats: CpuStats = CpuStats()
    memory_stats: MemoryStats = MemoryStats()
    pids_stats: PidsStats = PidsStats()


class ExecInspection(msgspec.Struct, frozen=True, rename="pascal"):
    running: bool = False
    exit_code: int | None = None
    pid: int = 0


class PullLine(msgspec.Struct, frozen=True):
    status: str = ""
    id: str = ""
    error: str = ""


class Component(msgspec.Struct, frozen=True, rename="pascal"):
    name: str = ""


class Version(msgspec.Struct, frozen=True, rename="pascal"):
    version: str = ""
    components: tuple[Component, ...] = ()

    @property
    def of_podman(self) -> bool:
        return any("podman" in component.name.lower() for component in self.components)


class Created(msgspec.Struct, frozen=True, rename="pascal"):
    id: str
