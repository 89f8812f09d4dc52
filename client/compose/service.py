"""Turns one service of a merged project into a job spec, and says what is wrong with it where the file says it.

Knows the service alone: what services must not share or need of each other is the project's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from client.compose import keys, optional
from client.compose.affinity import PlacedAffinity, read_affinities
from client.compose.assets import AssetReader, PlacedAsset
from client.compose.autoscale import read_autoscale
from client.compose.dependencies import PlacedDependency, read_dependencies
from client.compose.deploy import read_deploy
from client.compose.devices import PlacedDevice, once_for_each_kind, podium_devices, service_gpus
from client.compose.engine_options import platform_constraints, read_engine_options, read_privileges
from client.compose.environment import EnvironmentReader
from client.compose.field import Field
from client.compose.hooks import read_hooks
from client.compose.neighbours import PlacedLink, awaited, read_aliases, read_links
from client.compose.ports import PlacedPort, read_ports
from client.compose.schedule import read_schedule
from client.compose.traffic import with_traffic
from client.compose.tree import Items, Scalar
from client.compose.volumes import PlacedMount, Volume, read_mounts, shared, with_mounts
from common import validation
from common.model.job import (
    DEFAULT_PRIORITY,
    HIGHEST_PRIORITY,
    Container,
    HealthCheck,
    JobSpec,
    Placement,
    PullPolicy,
    TaskSpec,
)

PULL_POLICIES: Mapping[str, PullPolicy] = {
    "missing": PullPolicy.MISSING,
    "if_not_present": PullPolicy.MISSING,
    "always": PullPolicy.ALWAYS,
    "never": PullPolicy.NEVER,
}

_Keys = tuple[str | int, ...]
_PLACES: Mapping[str, tuple[_Keys, ...]] = {
    "task.slow_start_s": (("x-podium", "slow_start"),),
    "replicas": (("scale",), ("deploy", "replicas")),
    "priority": (("x-podium", "priority"),),
    "autoscale": (("x-podium", "autoscale"),),
    **{
        f"autoscale.{name}": (("x-podium", "autoscale", *key),)
        for name, key in {
            "least": ("min",),
            "most": ("max",),
            "cpu_percent": ("cpu",),
            "memory_percent": ("memory",),
            "wake_wait_s": ("wake_wait",),
            "up.stabilise_s": ("up", "stabilise"),
            "up.period_s": ("up", "period"),
            "down.stabilise_s": ("down", "stabilise"),
            "down.period_s": ("down", "period"),
            "up": ("up",),
            "down": ("down",),
            "query": ("query",),
            "schedule": ("schedule",),
        }.items()
    },
    "labels": (("deploy", "labels"),),
    "mode": (("deploy", "mode"),),
    "schedule.cron": (("x-podium", "schedule"),),
    "schedule.timezone": (("x-podium", "timezone"),),
    "schedule.start_within_s": (("x-podium", "start_within"),),
    "depends_on": (("depends_on",), ("x-podium", "depends_on")),
    "update.parallelism": (("deploy", "update_config", "parallelism"),),
    "batch.parallelism": (("deploy", "update_config", "parallelism"),),
    "gang": (("x-podium", "gang"),),
    "batch.attempts": (("x-podium", "attempts"),),
    "batch.deadline_s": (("x-podium", "deadline"),),
    "update.delay_s": (("deploy", "update_config", "delay"),),
    "update.monitor_s": (("deploy", "update_config", "monitor"),),
    "update.max_failure_ratio": (("deploy", "update_config", "max_failure_ratio"),),
    "update.order": (("deploy", "update_config", "order"),),
    "update.progress_deadline_s": (("x-podium", "progress_deadline"),),
    "update.canary": (("x-podium", "canary"),),
    "update.blue_green": (("x-podium", "blue_green"),),
    "rollback.parallelism": (("deploy", "rollback_config", "parallelism"),),
    "rollback.delay_s": (("deploy", "rollback_config", "delay"),),
    "rollback.monitor_s": (("deploy", "rollback_config", "monitor"),),
    "rollback": (("deploy", "rollback_config"),),
    "task.container.image": (("image",), ("build",), ("entrypoint",), ("command",)),
    "task.container.environment": (("environment",), ("env_file",)),
    "task.container.stop_grace_s": (("stop_grace_period",),),
    "task.reservations.cpu_millis": (("deploy", "resources", "reservations", "cpus"),),
    "task.reservations.memory_bytes": (("deploy", "resources", "reservations", "memory"), ("mem_reservation",)),
    "task.limits.cpu_millis": (("deploy", "resources", "limits", "cpus"), ("cpus",)),
    "task.limits.memory_bytes": (("deploy", "resources", "limits", "memory"), ("mem_limit",)),
    "task.placement.constraints": (("deploy", "placement", "constraints"),),
    "task.placement.spread": (("deploy", "placement", "preferences"),),
    "task.placement.max_replicas_per_node": (("deploy", "placement", "max_replicas_per_node"),),
    "task.health_check.test": (("healthcheck", "test"),),
    "task.health_check.interval_s": (("healthcheck", "interval"),),
    "task.health_check.timeout_s": (("healthcheck", "timeout"),),
    "task.health_check.retries": (("healthcheck", "retries"),),
    "task.health_check.start_period_s": (("healthcheck", "start_period"),),
    "task.health_check.start_interval_s": (("healthcheck", "start_interval"),),
    "task.restart.condition": (("deploy", "restart_policy", "condition"), ("restart",)),
    "task.restart.delay_s": (("deploy", "restart_policy", "delay"),),
    "task.restart.max_attempts": (("deploy", "restart_policy", "max_attempts"), ("restart",)),
    "task.restart.window_s": (("deploy", "restart_policy", "window"),),
    "aliases": (("networks",), ("container_name",)),
    "task.container.engine.dns_options": (("dns_opt",),),
    "task.container.privileges.cap_add": (("cap_add",),),
    "task.container.privileges.devices": (("devices",),),
    "task.container.privileges.host_network": (("network_mode",),),
    "task.container.privileges.unconfined": (("security_opt",),),
    "task.container.privileges": tuple(
        (key,)
        for key in ("privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "security_opt", "use_api_socket")
    ),
    "task.container.engine.shm_bytes": (("shm_size",),),
    "task.container.engine.memory_swap_bytes": (("memswap_limit",),),
    "task.container.engine.pids_limit": (("pids_limit",), ("deploy", "resources", "limits", "pids")),
    **{
        f"task.container.engine.{key}": ((key,),)
        for key in (
            *("cap_drop", "ulimits", "extra_hosts", "group_add", "sysctls", "domainname", "tty", "stdin_open"),
            *("oom_score_adj", "cpuset", "dns_search"),
        )
    },
    **{
        f"task.container.{key}": ((key,),)
        for key in (
            *("entrypoint", "command", "working_dir", "user", "labels", "hostname", "init", "read_only", "tmpfs"),
            *("stop_signal", "pull_policy"),
        )
    },
}
"""Where in a service stands what a field of the spec is made of; the first that is there."""

_DEVICE_KEYS: Mapping[str, str] = {"share_millis": "share"}


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What services share and use by name."""

    environments: EnvironmentReader
    volumes: Mapping[str, Volume]
    assets: AssetReader


class ReadService(msgspec.Struct, frozen=True, kw_only=True):
    """A service as a spec, and the places of what its neighbours have a say in."""

    name: str
    field: Field
    spec: JobSpec
    """Its `depends_on` is empty: which of `dependencies` are there is the project's to say."""
    ports: tuple[PlacedPort, ...]
    devices: tuple[PlacedDevice, ...]
    affinities: tuple[PlacedAffinity, ...]
    dependencies: tuple[PlacedDependency, ...]
    mounts: tuple[PlacedMount, ...] = ()
    links: tuple[PlacedLink, ...] = ()
    assets: tuple[PlacedAsset, ...] = ()


def read_service(
    name: str,
    field: Field,
    namespace: str,
    named: Named,
    *,
    active: bool,
) -> ReadService:
    """Faults go to the field's report; what is faulty has its default in the spec."""
    given = keys.honoured(field, keys.SERVICE, active=active)
    mounts = read_mounts(given.get("volumes"), named.volumes, active=active)
    assets = named.assets.mounts(given.get("configs"), given.get("secrets"), active=active)
    podium = keys.honoured(given["x-podium"], keys.PODIUM, active=active) if "x-podium" in given else {}
    ports = with_traffic(
        read_ports(given.get("ports"), given.get("expose"), active=active), podium, named.assets, active=active
    )
    health_check = _health_check(given.get("healthcheck"), active)
    deploy = read_deploy(given, podium, checked=health_check is not None, active=active)
    devices = (
        *deploy.devices,
        *service_gpus(given.get("gpus"), active=active),
        *podium_devices(podium.get("devices"), active=active),
    )
    once_for_each_kind(devices)
    affinities = read_affinities(podium, namespace, active=active)
    spec = JobSpec(
        namespace=namespace,
        name=name,
        mode=deploy.mode,
        replicas=deploy.replicas,
        labels=deploy.labels,
        priority=optional.count(podium.get("priority"), DEFAULT_PRIORITY, most=HIGHEST_PRIORITY),
        update=deploy.update,
        batch=deploy.batch,
        gang=optional.boolean(podium.get("gang")),
        rollback=deploy.rollback,
        task=TaskSpec(
            container=_container(field, given, named.environments, mounts, assets, active=active),
            ports=tuple(placed.port for placed in ports),
            reservations=deploy.reservations,
            limits=deploy.limits,
            placement=_placement(deploy.placement, affinities, given.get("platform")),
            health_check=health_check,
            restart=deploy.restart,
            slow_start_s=optional.duration_s(podium.get("slow_start"), 0.0),
            exclusive=optional.boolean(podium.get("exclusive")),
            devices=tuple(placed.request for placed in devices),
        ),
        schedule=read_schedule(podium),
        autoscale=read_autoscale(podium.get("autoscale"), active),
        aliases=read_aliases(name, given, active=active),
    )
    dependencies = read_dependencies(given.get("depends_on"), podium.get("depends_on"), active)
    links = read_links(given.get("links"))
    service = ReadService(
        name=name,
        field=field,
        spec=spec,
        ports=ports,
        devices=devices,
        affinities=affinities,
        dependencies=(*dependencies, *awaited(links, dependencies)),
        mounts=mounts,
        links=links,
        assets=assets,
    )
    _validate(service)
    return service


def _placement(placement: Placement, affinities: Iterable[PlacedAffinity], platform: Field | None) -> Placement:
    """What `deploy` says of it, with what is said elsewhere."""
    return msgspec.structs.replace(
        placement,
        affinities=tuple(placed.affinity for placed in affinities),
        constraints=(*placement.constraints, *platform_constraints(platform)),
    )


# --- container


def _container(
    service: Field,
    given: Mapping[str, Field],
    environments: EnvironmentReader,
    mounts: tuple[PlacedMount, ...],
    assets: tuple[PlacedAsset, ...],
    *,
    active: bool,
) -> Container:
    return Container(
        image=_image(service, given.get("image"), active=active),
        entrypoint=given["entrypoint"].arguments() if "entrypoint" in given else (),
        command=given["command"].arguments() if "command" in given else (),
        environment=environments.read(given.get("environment"), given.get("env_file")),
        working_dir=optional.text(given.get("working_dir")),
        user=optional.text(given.get("user")),
        labels=environments.read(None, given.get("label_file")) | optional.labels(given.get("labels")),
        hostname=optional.text(given.get("hostname")),
        init=optional.boolean(given.get("init")),
        read_only=optional.boolean(given.get("read_only")),
        tmpfs=given["tmpfs"].texts() if "tmpfs" in given else (),
        stop_signal=optional.text(given.get("stop_signal"), "SIGTERM"),
        stop_grace_s=optional.duration_s(given.get("stop_grace_period"), 10.0),
        pull_policy=optional.choice(given.get("pull_policy"), PULL_POLICIES, PullPolicy.MISSING),
        mounts=tuple(placed.mount for placed in mounts),
        post_start=read_hooks(given.get("post_start"), environments, active=active),
        pre_stop=read_hooks(given.get("pre_stop"), environments, active=active),
        assets=tuple(placed.mount for placed in assets),
        engine=read_engine_options(given, service.at("deploy", "resources", "limits", "pids")),
        privileges=read_privileges(given),
    )


_BUILT = "to-be-built"
"""Stands for the image of a service that has none but what builds it: the rest of it is no plain process's."""


def _image(service: Field, image: Field | None, *, active: bool) -> str:
    build = service.at("build")
    if image is None and build is not None:
        if active:
            build.fault("Podium does not build images: build it, and name it with image")
        return _BUILT
    if image is not None and isinstance(image.node, Scalar) and not image.node.text.strip():
        # Without an image the command would run as a plain process: never because a variable happened to be unset.
        image.fault("is empty: name an image, or leave the key out to run the command as a plain process")
    return optional.text(image)


def _health_check(field: Field | None, active: bool) -> HealthCheck | None:
    if field is None:
        return None
    given = keys.honoured(field, keys.HEALTH_CHECK, active=active)
    if optional.boolean(given.get("disable")):
        return None
    if "test" not in given:
        field.fault("test is missing: Podium does not read checks out of images")
        return None
    test = _test(given["test"])
    usual = HealthCheck(test=test)
    check = HealthCheck(
        test=test,
        interval_s=optional.duration_s(given.get("interval"), usual.interval_s),
        timeout_s=optional.duration_s(given.get("timeout"), usual.timeout_s),
        retries=optional.count(given.get("retries"), usual.retries, least=1),
        start_period_s=optional.duration_s(given.get("start_period"), usual.start_period_s),
        start_interval_s=optional.duration_s(given.get("start_interval"), usual.start_interval_s),
    )
    return None if test == ("NONE",) else check


def _test(field: Field) -> tuple[str, ...]:
    if isinstance(field.node, Items):
        return field.texts()
    line = field.text("a command as a list or a text")
    return ("NONE",) if line is None else ("CMD-SHELL", line)


# --- what the spec must satisfy


def _validate(service: ReadService) -> None:
    """What is wrong with the spec, at the key it comes from; a key that is faulty already is left alone."""
    extends = service.field.at("extends")
    if extends is not None and not extends.is_null:
        return  # What it extends could not be had: what is missing may be there.
    spec = msgspec.structs.replace(service.spec, depends_on=tuple(placed.dependency for placed in service.dependencies))
    spec = with_mounts(spec, shared(spec.task.container.mounts))  # who else writes them only the whole project says
    found = [
        (_place(service, fault.path), fault.text) for fault in validation.faults(spec) if fault.path != "namespace"
    ]
    for field, text in [(field, text) for field, text in found if not field.is_faulty]:
        field.fault(text)


def _place(service: ReadService, path: str) -> Field:
    """The deepest place in the file that a path of the spec comes from."""
    for placed in service.dependencies:
        if path == f"depends_on.{'/'.join(filter(None, (placed.dependency.namespace, placed.dependency.job)))}":
            return placed.field
    if path.startswith("task.ports["):
        placed_port = service.ports[_index(path)]
        return placed_port.routes if ".http[" in path and placed_port.routes is not None else placed_port.field
    if path.startswith("task.placement.affinities["):
        place = service.affinities[_index(path)].field
        return place.at(path.partition("].")[2]) or place
    if path.startswith("task.container.mounts["):
        return service.mounts[_index(path)].field
    if path.startswith(("task.container.post_start[", "task.container.pre_stop[")):
        return _written(service.field, path.removeprefix("task.container."))
    if path.startswith("task.container.assets["):
        place = service.assets[_index(path)].field
        return place.at(path.partition("].")[2]) or place
    if path.startswith("task.devices["):
        return _deeper_device(service.devices[_index(path)].field, path.partition("].")[2])
    stem = max((stem for stem in _PLACES if path.startswith(stem)), key=len, default="")
    rest = path.removeprefix(stem)
    for keys_to_it in _PLACES.get(stem, ()):
        found = service.field.at(*keys_to_it)
        if found is not None:
            return _deeper(found, rest)
    return service.field


def _written(field: Field, path: str) -> Field:
    """As deep as the file has a path that is named there as in the spec, e.g. `post_start[1].environment.NAME`."""
    for name in path.replace("[", ".").replace("]", "").split("."):
        found = field.at(int(name) if name.isdecimal() else name) or _deeper(field, f".{name}")
        if found is field:
            break
        field = found
    return field


def _index(path: str) -> int:
    """The first one in a path, e.g. 3 of `task.ports[3].container_port`."""
    return int(path.partition("[")[2].partition("]")[0])


def _deeper_device(field: Field, rest: str) -> Field:
    """Where the file says what a fault of a device is about, when it says that in a place of its own."""
    stem, _, place = rest.partition("[")
    key = _DEVICE_KEYS.get(stem, stem)
    for keys_to_it in ((key,), ("discrete_resource_spec", key)):
        found = field.at(*keys_to_it)
        if found is not None:
            return (found.at(_index(rest)) or found) if place else found
    return field


def _deeper(field: Field, rest: str) -> Field:
    """One step further, when the file has it: the item of a list, or what is written for a name."""
    if rest.startswith("["):
        return field.at(int(rest[1:].partition("]")[0])) or field
    name = rest[1:]
    if isinstance(field.node, Items):
        named = (
            item for item in field.items() if isinstance(item.node, Scalar) and item.node.text.partition("=")[0] == name
        )
        return next(named, field)
    return field.at(name) or field
