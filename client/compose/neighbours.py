"""Reads by what names a service is found, and which others it links to: `networks`, `container_name` and `links`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from client.compose import keys, optional
from client.compose.dependencies import PlacedDependency
from client.compose.field import Field
from client.compose.tree import Items, shown
from common.model.job import Dependency, DependencyCondition, JobSpec
from common.names import alias_fault

DEFAULT_NETWORK = "default"
ONE_NETWORK = "keeps no services apart: all of a project reach each other, and others only what is published"


class PlacedLink(msgspec.Struct, frozen=True):
    """`target` is to be found by `alias` too."""

    target: str
    alias: str
    field: Field


def read_aliases(service: str, given: Mapping[str, Field], *, active: bool) -> tuple[str, ...]:
    """More names of a service: those of its networks, and the name that its only container would have in Compose."""
    found = dict.fromkeys(_of_networks(given.get("networks"), active))
    container = given.get("container_name")
    name = optional.text(container).lower()
    if container is not None and name and alias_fault(name):
        container.warn(f"is no name that others can find it by: {alias_fault(name)}")
    elif name:
        found[name] = None
    found.pop(service, None)
    return tuple(found)


def _of_networks(field: Field | None, active: bool) -> Iterator[str]:
    if field is None:
        return
    if isinstance(field.node, Items):
        if set(field.texts()) - {DEFAULT_NETWORK}:
            field.warn(ONE_NETWORK)
        return
    networks = field.fields()
    if set(networks) - {DEFAULT_NETWORK}:
        field.warn(ONE_NETWORK)
    for inner in networks.values():
        if not inner.is_null:
            aliases = keys.honoured(inner, keys.SERVICE_NETWORK, active=active).get("aliases")
            yield from (text.lower() for text in (aliases.texts() if aliases is not None else ()))


def read_links(field: Field | None) -> tuple[PlacedLink, ...]:
    """`SERVICE` or `SERVICE:ALIAS` each."""
    found = []
    for item in field.items() if field is not None else ():
        text = item.text("a service, or SERVICE:ALIAS")
        if text is not None:
            target, _, alias = text.partition(":")
            fault = alias_fault(alias.lower()) if alias else ""
            if fault:
                item.fault(fault)
            else:
                found.append(PlacedLink(target, alias.lower(), item))
    return tuple(found)


def awaited(links: Iterable[PlacedLink], dependencies: Iterable[PlacedDependency]) -> Iterator[PlacedDependency]:
    """A link waits for its service to have started, unless `depends_on` says for what."""
    named = {placed.dependency.job for placed in dependencies if not placed.dependency.namespace}
    for link in links:
        if link.target not in named:
            named.add(link.target)
            yield PlacedDependency(Dependency(job=link.target), link.field, required=True)


def with_link_names(specs: Iterable[JobSpec], links: Iterable[PlacedLink]) -> tuple[JobSpec, ...]:
    """A linked service has the link's name for all of the project: one that only the linking one knows there is not."""
    more: dict[str, dict[str, None]] = {}
    for link in links:
        if link.alias and link.alias != link.target:
            more.setdefault(link.target, {})[link.alias] = None
    return tuple(
        msgspec.structs.replace(spec, aliases=tuple(dict.fromkeys((*spec.aliases, *more.get(spec.name, ())))))
        for spec in specs
    )


def check_aliases(specs: Iterable[JobSpec], fields: Mapping[str, Field]) -> None:
    """A name that is another service's own never leads here."""
    specs = tuple(specs)
    own = {spec.name for spec in specs}
    for spec in specs:
        for alias in spec.aliases:
            if alias in own - {spec.name}:
                fields[spec.name].warn(f"is not found by the name {shown(alias)}: another service has it")


def warn_of_nameless(specs: Iterable[JobSpec], fields: Mapping[str, Field]) -> None:
    """What others wait for they mean to reach; of a container its image may say at which port."""
    specs = tuple(specs)
    awaited_names = {
        one.job
        for spec in specs
        for one in spec.depends_on
        if one.namespace in ("", spec.namespace)
        and one.condition is not DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY
    }
    for spec in specs:
        nameless = not spec.task.ports and not spec.task.container.image and not spec.mode.ends
        if spec.name in awaited_names and nameless:
            fields[spec.name].warn("has no port, so others cannot reach it by its name: say which with expose: [PORT]")
