"""What engineers' writes do to jobs, and in which words."""

from __future__ import annotations

import random

import msgspec
import pytest

from common.errors import Conflict, Invalid, NotFound
from common.model.api import ApplyRequest, JobsRequest, ScaleRequest, ScaleTarget
from common.model.job import DesiredState, JobSpec, Port, Protocol, PublishMode
from controller.core.apply import Applying, apply_specs, differences, remove, restart, scale, stop
from controller.state import State
from tests.world import CHECK, World, web, with_task


def actions(applying: Applying) -> list[str]:
    return [change.action for change in applying.changes]


def apply(world: World, *specs: JobSpec, remove_orphans: bool = False) -> Applying:
    request = ApplyRequest(namespace="shop", specs=specs, remove_orphans=remove_orphans, idempotency_key="k")
    return apply_specs(world.state, request, world.now_s, world.rng)


def named(*names: str, key: str = "") -> JobsRequest:
    return JobsRequest(namespace="shop", jobs=names, idempotency_key=key)


def test_the_same_spec_again_changes_nothing() -> None:
    world = World(web())
    again = apply(world, web())
    assert actions(again) == ["unchanged"]
    assert again.groups == ()


def test_a_mere_change_of_replicas_is_no_new_version() -> None:
    world = World(web())
    world.write(apply(world, web(replicas=5)))
    assert (world.job().replicas, world.job().version) == (5, 1)


def test_a_change_of_priority_restarts_nothing() -> None:
    world = World(web())
    changed = apply(world, msgspec.structs.replace(web(), priority=80))
    assert changed.changes[0].text == "priority from 50 to 80; nothing is restarted"
    world.write(changed)
    assert (world.job().priority, world.job().version) == (80, 1)
    assert apply(world, msgspec.structs.replace(web(), priority=80)).groups == ()


def test_a_priority_outlives_restarts_and_comes_with_new_versions() -> None:
    world = World(web())
    world.write(apply(world, msgspec.structs.replace(web(), priority=80)))
    world.write(restart(world.state, named("web"), 1.0))
    assert (world.job().priority, world.job().version) == (80, 2)
    changed = apply(world, msgspec.structs.replace(web("web:2"), priority=20))
    assert changed.changes[0].text == "priority: 80 -> 20; task.container.image: web:1 -> web:2"
    world.write(changed)
    assert world.job().priority == 20


def test_any_other_change_is_a_new_version_with_its_differences_in_words() -> None:
    world = World(web())
    changed = apply(world, web("web:2"))
    world.write(changed)
    assert world.job().version == 2
    assert changed.changes[0].text == "task.container.image: web:1 -> web:2"


def test_up_brings_back_what_scale_and_stop_changed() -> None:
    world = World(web())
    world.write(scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=9),)), 0.0))
    world.write(stop(world.state, named("web")))
    assert actions(apply(world, web())) == ["start"]
    world.write(apply(world, web()))
    assert (world.job().replicas, world.job().desired) == (3, DesiredState.RUN)


def test_a_repeated_restart_is_one_restart() -> None:
    world = World(web())
    world.write(restart(world.state, named("web", key="k1"), world.now_s))
    assert actions(restart(world.state, named("web", key="k1"), world.now_s)) == ["unchanged"]
    assert actions(restart(world.state, named("web", key="k2"), world.now_s)) == ["restart"]


@pytest.mark.parametrize("replicas", [-1, 100_001])
def test_impossible_numbers_of_replicas_are_refused(replicas: int) -> None:
    world = World(web())
    request = ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=replicas),))
    with pytest.raises(Invalid, match="allowed are 0 to 100000"):
        scale(world.state, request, 0.0)


def test_an_unknown_job_is_named_with_those_that_exist() -> None:
    world = World(web())
    with pytest.raises(NotFound, match="no job shop/wep; the namespace has web"):
        stop(world.state, named("wep"))


def test_a_job_that_is_being_removed_cannot_be_changed() -> None:
    world = World(web())
    world.write(remove(world.state, named("web")))
    with pytest.raises(Conflict, match="is being removed"):
        apply(world, web())
    with pytest.raises(NotFound):
        stop(world.state, named("web"))


class TestPublishedPorts:
    PORT = Port(container_port=80, published_port=8080)

    def job(self, name: str, port: Port = PORT) -> JobSpec:
        return msgspec.structs.replace(with_task(web(), ports=(port,)), name=name)

    def test_that_are_on_every_node_cannot_be_bound_on_one_besides(self) -> None:
        bound = Port(container_port=80, published_port=8080, mode=PublishMode.HOST)
        with pytest.raises(Invalid, match=r"services.api.ports: port 8080/tcp is published on every node by shop/web"):
            apply(World(self.job("web")), self.job("api", bound))
        with pytest.raises(Invalid, match=r"port 8080/tcp is bound on nodes by shop/api \(mode host\)"):
            apply(World(self.job("api", bound)), self.job("web"))
        with pytest.raises(Invalid, match=r"services.api.ports: port 8080/tcp is published on every node by shop/web"):
            apply(World(), self.job("api", bound), self.job("web"))
        apply(World(self.job("api", bound)), self.job("web", bound))

    def test_belong_to_one_job_of_the_cluster(self) -> None:
        world = World(self.job("web"))
        with pytest.raises(Invalid, match="port 8080/tcp is already published by shop/web"):
            apply(world, self.job("api"))

    def test_of_another_protocol_are_others(self) -> None:
        world = World(self.job("web"))
        udp = Port(container_port=80, published_port=8080, protocol=Protocol.UDP)
        assert actions(apply(world, self.job("api", udp))) == ["create"]

    def test_change_hands_within_one_request(self) -> None:
        world = World(self.job("web"))
        moved = apply(world, self.job("web", Port(container_port=80, published_port=8081)), self.job("api"))
        assert actions(moved) == ["update", "create"]

    def test_of_orphans_that_are_removed_are_free(self) -> None:
        world = World(self.job("old"))
        assert actions(apply(world, self.job("new"), remove_orphans=True)) == ["create", "remove"]


def test_differences_reach_into_parts_that_appear() -> None:
    texts = differences(web(), with_task(web(), health_check=CHECK))
    assert "task.health_check.test: none -> CMD /up" in texts


def test_differences_reach_into_lists_of_parts() -> None:
    def served(*ports: Port) -> JobSpec:
        return with_task(web(), ports=ports)

    first, second = Port(container_port=80, published_port=8080), Port(container_port=81, published_port=8081)
    assert differences(served(first), served(msgspec.structs.replace(first, published_port=80))) == (
        "task.ports[0].published_port: 8080 -> 80",
    )
    assert "task.ports[1].container_port: 81 -> none" in differences(served(first, second), served(first))


def test_nothing_is_written_when_one_of_several_is_refused() -> None:
    state = State.of(())
    clash = with_task(web(), ports=(Port(container_port=80, published_port=80),))
    request = ApplyRequest(namespace="shop", specs=(clash, msgspec.structs.replace(clash, name="other")))
    with pytest.raises(Invalid):
        apply_specs(state, request, 0.0, random.Random(1))
    assert list(state.records()) == []
