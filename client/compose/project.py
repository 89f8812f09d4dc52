"""Reads Compose files into the specs of one project: the order of the steps, and what concerns several services.

All faults of all files are raised together; a project is never loaded in part.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from client.compose import keys
from client.compose.assets import AssetReader, ProjectAsset
from client.compose.dependencies import PlacedDependency
from client.compose.document import is_there
from client.compose.dotenv import read_variables
from client.compose.environment import EnvironmentReader
from client.compose.field import Field
from client.compose.files import FILES, ProjectFiles
from client.compose.interpolate import interpolate_tree
from client.compose.merge import SERVICES, without_resets
from client.compose.neighbours import check_aliases, warn_of_nameless, with_link_names
from client.compose.ports import PlacedPort
from client.compose.report import Report, in_order
from client.compose.service import Named, ReadService, read_service
from client.compose.tree import Fields, Items, Mark, Node, Scalar, shown
from client.compose.volumes import read_volumes, with_mounts, with_sharing
from common.circles import circles
from common.errors import Fault, Invalid
from common.model.job import Dependency, DependencyCondition, JobSpec, RestartCondition
from common.names import name_fault
from common.rollout_rules import strategy_faults
from common.settings import LIMITS

DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
OVERRIDE_FILES = (
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
)
EVERY_PROFILE = "*"


class Places:
    """Where everything stands. Projects that ask for the same are equal, wherever it stands."""

    def __init__(self, tree: Node) -> None:
        self.tree = tree

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)

    __hash__ = None  # type: ignore[assignment]  # projects have none either


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of Compose files asks for."""

    name: str
    """The namespace of its jobs."""
    specs: tuple[JobSpec, ...]
    """Of the services whose profiles are active, in the order of the files."""
    assets: tuple[ProjectAsset, ...] = ()
    """Configs and secrets that they use; their digests in the specs are empty until a controller was asked."""
    warnings: tuple[Fault, ...] = ()
    """Keys that are ignored, variables that are not set, ..."""
    places: Places

    def placed(self, fault: Fault) -> Fault:
        """A fault that was found elsewhere, e.g. by the controller, with the place in the files that it is about."""
        if fault.line:
            return fault
        mark = _deepest(self.places.tree, fault.path)
        return msgspec.structs.replace(fault, file=mark.source.name, line=mark.line)


def default_files(directory: Path) -> tuple[Path, ...]:
    """The Compose file of a directory, and its override file when there is one; empty when there is none."""
    found = (next((directory / name for name in names if (directory / name).is_file()), None) for names in _DEFAULTS)
    base, override = found
    return () if base is None else (base,) if override is None else (base, override)


_DEFAULTS = (DEFAULT_FILES, OVERRIDE_FILES)


def load(
    files: Sequence[Path],
    *,
    project_name: str | None,
    environment: Mapping[str, str],
    profiles: Sequence[str] = (),
) -> Project:
    """The project of `files`, later ones laid over earlier ones. Raises `Invalid` with every fault at once.

    `environment` is that of the caller's shell: it comes before `.env` beside the first file. `COMPOSE_PROJECT_NAME`
    and `COMPOSE_PROFILES` are read from both; `project_name` and `profiles` come before the one and add to the other.
    """
    if not files:
        raise Invalid("no Compose file is given")
    if len(files) > FILES:
        raise Invalid(f"{len(files)} Compose files are given; at most {FILES} are allowed")
    return _Loader([Path(file) for file in files], project_name or "", environment, profiles).project()


class _Loader:
    def __init__(
        self, files: Sequence[Path], project_name: str, environment: Mapping[str, str], profiles: Sequence[str]
    ) -> None:
        self._files = files
        self._directory = files[0].parent
        self._report = Report()
        self._dotenv: dict[str, str] = {}
        self._variables = ChainMap({}, dict(environment), self._dotenv)
        self._project_files = ProjectFiles(self._report)
        self._project_name = project_name
        self._profiles = profiles

    def project(self) -> Project:
        self._read_dotenv()
        roots = [self._project_files.parsed(file, self._directory) for file in self._files]
        name = self._name(roots)
        whole = self._project_files.merged([root for root in roots if root is not None], self._variables)
        # Nothing that follows makes sense of a file that could not be read.
        if whole is None or any(root is None for root in roots) or not self._project_files.complete:
            self._report.refuse_if_faulty()
            raise Invalid("the Compose files are empty")
        whole = without_resets(whole)
        services, assets = self._services(Field(whole, "", whole.mark, self._report), name)
        specs = _Neighbours(services, self._report).specs()
        self._report.refuse_if_faulty()
        return Project(
            name=name,
            specs=specs,
            assets=assets.used,
            warnings=in_order(self._report.warnings),
            places=Places(whole),
        )

    # --- files

    def _read_dotenv(self) -> None:
        path = self._directory / ".env"
        if not is_there(path):
            return
        try:
            self._dotenv.update(read_variables(path, str(path), dict(self._variables), self._report))
        except Invalid as error:
            self._report.add(error.faults)

    # --- name and profiles

    def _name(self, roots: Sequence[Node | None]) -> str:
        """Explicit, then of the environment, then of the last file that has one, then of the directory."""
        given = self._project_name or self._variables.get("COMPOSE_PROJECT_NAME", "")
        name, mark = (given, None) if given else self._written_name(roots)
        if not name:
            name = _directory_name(self._directory)
        elif fault := name_fault(name):
            self._report.fault(mark, "name", fault)
        self._variables.maps[0]["COMPOSE_PROJECT_NAME"] = name
        return name

    def _written_name(self, roots: Sequence[Node | None]) -> tuple[str, Mark | None]:
        for root in reversed(roots):
            entry = root.entries.get("name") if isinstance(root, Fields) else None
            if entry is not None and isinstance(entry.value, Scalar):
                # Faults of its variables are reported when the whole file is interpolated.
                node = interpolate_tree(entry.value, self._variables, Report())
                if isinstance(node, Scalar) and node.text:
                    return node.text, entry.mark
        return "", None

    def _active(self, service: Field) -> bool:
        wanted = {*self._profiles, *self._variables.get("COMPOSE_PROFILES", "").split(",")}
        profiles = service.at("profiles")
        if profiles is None or profiles.is_null:
            return True
        own = profiles.texts()
        return not own or EVERY_PROFILE in wanted or not wanted.isdisjoint(own)

    # --- services

    def _services(self, root: Field, namespace: str) -> tuple[list[tuple[ReadService, bool]], AssetReader]:
        given = keys.honoured(root, keys.PROJECT)
        if "name" in given:
            given["name"].text("a name")
        if isinstance(root.node, Fields) and SERVICES not in given:
            root.fault("services is missing: a project has at least one service")
        services = given[SERVICES].fields() if SERVICES in given else {}
        if SERVICES in given and isinstance(given[SERVICES].node, Fields) and not services:
            given[SERVICES].fault("is empty: a project has at least one service")
        if len(services) > LIMITS.jobs_per_request:
            given[SERVICES].fault(f"has {len(services)} services; at most {LIMITS.jobs_per_request} are allowed")
            self._report.refuse_if_faulty()
        named = Named(
            environments=EnvironmentReader(self._variables_of, self._report),
            volumes=read_volumes(given.get("volumes"), namespace),
            assets=AssetReader(given.get("configs"), given.get("secrets"), self._variables_of),
        )
        return [self._service(name, field, namespace, named) for name, field in services.items()], named.assets

    def _variables_of(self, mark: Mark) -> Mapping[str, str]:
        """Those of the project that a place in the files belongs to."""
        return self._project_files.variables(mark, self._variables)

    def _service(self, name: str, field: Field, namespace: str, named: Named) -> tuple[ReadService, bool]:
        active = self._active(field)
        return read_service(name, field, namespace, named, active=active), active


class _Neighbours:
    """What the active services of a project may not share, and whom they wait for."""

    def __init__(self, services: Sequence[tuple[ReadService, bool]], report: Report) -> None:
        self._report = report
        self._active = {service.name: service for service, active in services if active}
        self._inactive = {service.name for service, active in services if not active}

    def specs(self) -> tuple[JobSpec, ...]:
        self._check_ports()
        mounts = with_sharing({name: one.spec.task.container.mounts for name, one in self._active.items()})
        specs = tuple(
            with_mounts(self._with_dependencies(service), mounts[service.name]) for service in self._active.values()
        )
        specs = with_link_names(specs, (link for one in self._active.values() for link in one.links))
        fields = {name: one.field for name, one in self._active.items()}
        check_aliases(specs, fields)
        warn_of_nameless(specs, fields)
        self._check_circles(specs)
        self._check_rollouts(specs)
        self._warn_of_copies(specs)
        return specs

    def _check_rollouts(self, specs: Sequence[JobSpec]) -> None:
        """Whether two versions can run side by side also depends on who else writes their volumes."""
        for spec in specs:
            for path, text in strategy_faults(spec):
                field = self._active[spec.name].field.at("x-podium", path)
                if field is not None and not field.is_faulty:
                    field.fault(text)

    def _warn_of_copies(self, specs: Sequence[JobSpec]) -> None:
        """In Compose all replicas have the same volume."""
        for spec in specs:
            for placed, mount in zip(self._active[spec.name].mounts, spec.task.container.mounts, strict=True):
                if mount.sole_writer and spec.replicas > 1:
                    placed.field.warn(
                        f"each of the {spec.replicas} replicas has a volume of its own, on a node of its own: "
                        "to let them share one on one node, say x-podium: {shared: true} where the volume is named"
                    )

    def _check_ports(self) -> None:
        """A published port is one place in the cluster, and so is a route: it belongs to one job."""
        taken: dict[str, tuple[str, Field]] = {}
        for service in self._active.values():
            for placed in service.ports:
                for name in placed.port.public_names:
                    self._check_name(taken, service.name, name, placed)

    def _check_name(self, taken: dict[str, tuple[str, Field]], service: str, name: str, placed: PlacedPort) -> None:
        routed = name in map(str, placed.port.http)
        here = placed.routes if routed and placed.routes is not None else placed.field
        owner, field = taken.setdefault(name, (service, here))
        if owner != service:
            what = f"requests for {name} are routed" if routed else f"port {name} is published"
            here.fault(f"{what} already by {field.path} in {_line(field, here)}: choose another")

    def _with_dependencies(self, service: ReadService) -> JobSpec:
        kept = (self._checked(placed) for placed in service.dependencies)
        return msgspec.structs.replace(
            service.spec, depends_on=tuple(dependency for dependency in kept if dependency is not None)
        )

    def _checked(self, placed: PlacedDependency) -> Dependency | None:
        dependency, name = placed.dependency, placed.dependency.job
        target = self._active.get(name)
        if placed.anywhere and (target is None or dependency.namespace not in ("", target.spec.namespace)):
            return dependency
        if target is not None:
            self._check_condition(placed, target)
            return dependency
        if placed.required and name in self._inactive:
            placed.field.fault(f"depends on {name}, which is left out: none of its profiles is active")
        elif placed.required:
            near = self._report.nearest(name, self._active)
            placed.field.fault(f"depends on {shown(name)}, but there is no such service{near}")
        return None

    def _check_condition(self, placed: PlacedDependency, target: ReadService) -> None:
        """A condition that can never be met would leave the service waiting for ever."""
        condition, task = placed.dependency.condition, target.spec.task
        if condition is DependencyCondition.SERVICE_HEALTHY and task.health_check is None:
            placed.field.fault(f"waits for {target.name} to be healthy, which has no healthcheck")
        elif target.spec.schedule is not None and condition is not DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY:
            placed.field.fault(
                f"waits for {target.name}, which has a schedule: all that can be waited for is a run that completed, "
                f"with condition {DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY.value}"
            )
        runs_for_ever = not target.spec.mode.ends and task.restart.condition is RestartCondition.ANY
        if condition is DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY and runs_for_ever:
            placed.field.fault(
                f"waits for {target.name} to complete, which is restarted whenever it ends: "
                f"give {target.name} deploy.mode: replicated-job"
            )

    def _check_circles(self, specs: Sequence[JobSpec]) -> None:
        graph = {
            spec.name: [one.job for one in spec.depends_on if one.job != spec.name and _of_project(one, spec)]
            for spec in specs
        }
        for circle in circles(graph):
            field = next(
                placed.field for placed in self._active[circle[0]].dependencies if placed.dependency.job == circle[1]
            )
            field.fault(f"services wait for each other in a circle: {' -> '.join(circle)}")


def _of_project(dependency: Dependency, spec: JobSpec) -> bool:
    return dependency.namespace in ("", spec.namespace)


def _line(field: Field, seen_from: Field) -> str:
    """Where a field stands, without the file's name when that is the reader's own."""
    if field.mark.source.name == seen_from.mark.source.name:
        return f"line {field.mark.line}"
    return str(field.mark)


def _deepest(tree: Node, path: str) -> Mark:
    """Where the deepest part of a path stands that is written in the files."""
    node: Node = tree
    mark = tree.mark
    for name in path.split("."):
        if isinstance(node, Fields) and name in node.entries:
            mark = node.entries[name].mark
            node = node.entries[name].value
        elif isinstance(node, Items):
            named = (item for item in node.items if isinstance(item, Scalar) and item.text == name)
            return next((item.mark for item in named), mark)
        else:
            break
    return mark


def _directory_name(directory: Path) -> str:
    """A directory's name as a name: `My Shop_2` is `my-shop-2`."""
    try:
        last = directory.resolve().name
    except (OSError, RuntimeError, ValueError):
        return "default"
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:63].strip("-") or "default"
