"""Every call of the API has a right, and each role, certificate and namespace gives exactly its own."""

from __future__ import annotations

import pytest

from common.identity import Identity
from common.model.trust import Kind, Role
from controller.core.rights import (
    RIGHTS,
    WHOLE_CLUSTER,
    Caller,
    Everybody,
    Machine,
    Nobody,
    Person,
    hopeless,
    names,
    refusal,
    right_named,
)
from protos.v1 import api_pb2, assets_pb2, dispatcher_pb2, store_pb2, trust_pb2

SHOP, BLOG = frozenset({"shop"}), frozenset({"blog"})
ONE_OF_EACH = {
    Role.VIEWER: "Jobs/List",
    Role.DEPLOYER: "Jobs/Apply",
    Role.OPERATOR: "Nodes/Drain",
    Role.ADMIN: "Trust/AddUser",
}


def person(role: Role, *namespaces: str) -> Person:
    return Person(name="ann", role=role, namespaces=namespaces)


def machine(kind: Kind) -> Machine:
    return Machine(identity=Identity(cluster_id="c1", kind=kind, id="n1"), serial="0f")


def test_every_method_of_every_service_has_a_right_and_no_right_is_for_nothing() -> None:
    declared = {
        f"{service.name}/{method.name}"
        for module in (api_pb2, assets_pb2, dispatcher_pb2, store_pb2, trust_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(RIGHTS) == declared


def test_what_changes_something_takes_more_than_a_viewer_and_is_audited() -> None:
    for name, right in RIGHTS.items():
        if right.writes and right.least is not None:
            assert refusal(person(Role.VIEWER), right, WHOLE_CLUSTER), name
    reads = {"read", "plan", "logs", "inspect", "simulate", "ask", "find", "check", "serve"}
    assert {right.verb for right in RIGHTS.values() if not right.writes} <= reads


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("least", Role)
def test_a_role_may_do_what_the_ones_below_may(role: Role, least: Role) -> None:
    ranks = list(Role)
    refused = refusal(person(role), RIGHTS[ONE_OF_EACH[least]], SHOP)
    assert bool(refused) is (ranks.index(role) < ranks.index(least))
    assert not refused or (role.value in refused and least.value in refused)


@pytest.mark.parametrize(
    ("name", "namespaces", "said"),
    [
        ("Jobs/Apply", SHOP, ""),
        ("Jobs/Apply", SHOP | BLOG, "not in blog"),
        ("Jobs/List", WHOLE_CLUSTER, "name one of them"),
        ("Nodes/List", WHOLE_CLUSTER, ""),
        ("Nodes/Inspect", WHOLE_CLUSTER, "concerns the whole cluster"),
        ("Cluster/Status", WHOLE_CLUSTER, ""),
    ],
)
def test_a_role_in_a_namespace_ends_there(name: str, namespaces: frozenset[str] | None, said: str) -> None:
    refused = refusal(person(Role.ADMIN, "shop"), RIGHTS[name], namespaces)
    assert said in refused
    assert bool(refused) is bool(said)


@pytest.mark.parametrize("caller", [machine(Kind.AGENT), machine(Kind.CONTROLLER)])
def test_a_certificate_gives_no_right_of_an_engineer(caller: Caller) -> None:
    allowed = {name for name, right in RIGHTS.items() if right.least is not None and not refusal(caller, right, SHOP)}
    agents = {"Dispatcher/Session", "Trust/Renew"}
    assert allowed == (agents if caller == machine(Kind.AGENT) else set())


def test_nobody_may_only_find_the_cluster_and_join_it() -> None:
    allowed = {name for name, right in RIGHTS.items() if not refusal(Nobody(), right, SHOP)}
    assert allowed == {"Trust/FindDoors", "Trust/Join", "Trust/Recover"}


def test_without_access_control_everybody_may_everything() -> None:
    assert not any(refusal(Everybody(), right, WHOLE_CLUSTER) for right in RIGHTS.values())


def test_rights_are_found_by_the_words_that_people_use() -> None:
    assert right_named("apply", "job") is RIGHTS["Jobs/Apply"]
    assert right_named("fly", "kite") is None
    assert ("drain", "node") in names()


@pytest.mark.parametrize("name", RIGHTS)
def test_what_is_hopeless_is_what_no_request_could_be_allowed(name: str) -> None:
    everything = [WHOLE_CLUSTER, SHOP, BLOG, SHOP | BLOG]
    people: list[Caller] = [person(role, *where) for role in Role for where in ((), ("shop",), ("blog", "shop"))]
    for caller in (*people, machine(Kind.AGENT), machine(Kind.CONTROLLER), Nobody(), Everybody()):
        never = all(refusal(caller, RIGHTS[name], about) for about in everything)
        assert bool(hopeless(caller, RIGHTS[name])) is never, caller
