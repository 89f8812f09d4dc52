"""What a node does not do although a controller that was taken over tells it to."""

from __future__ import annotations

import msgspec
import pytest

from common.model.endpoint import Endpoint, Service
from common.model.job import Container, Mount, MountKind
from common.model.privileges import Privileges
from common.model.session import Endpoints
from common.model.task import TaskState
from tests.agent_builders import assignment
from tests.agent_rig import Machine, orders
from tests.virtual_time import on_virtual_time


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize(
    ("container", "said"),
    [
        (Container(image="a", privileges=Privileges(privileged=True)), "does not allow privileged mode"),
        (
            Container(image="a", privileges=Privileges(cap_add=("SYS_ADMIN",))),
            "does not allow the capability SYS_ADMIN",
        ),
        (
            Container(image="a", mounts=(Mount(kind=MountKind.BIND, source="/etc", target="/x"),)),
            "does not allow bind mounts under /etc",
        ),
    ],
)
@on_virtual_time
async def test_nothing_is_started_that_the_node_s_policy_does_not_allow(
    machine: Machine, container: Container, said: str
) -> None:
    machine.controller.first = orders(assignment(container=container))
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.REJECTED)
    assert f"this node's policy {said}" in status.message
    assert not machine.engine.containers


@on_virtual_time
async def test_its_proxy_is_not_told_of_its_own_loopback_on_another_node_s_word(machine: Machine) -> None:
    honest = Endpoint(task_id="good", slot=1, node_id="n2", address="10.0.0.2", port=30_000)
    forged = msgspec.structs.replace(honest, task_id="forged", address="127.0.0.1", port=22)
    service = Service(namespace="shop", job="web", container_port=80, published_port=8080, endpoints=(honest, forged))
    machine.controller.first = [*orders(), Endpoints(complete=True, revision=7, services=(service,))]
    async with machine.running() as controller:
        await controller.until(lambda: machine.data_plane.applied)
    ((_, (applied,)),) = machine.data_plane.applied
    assert applied.endpoints == (honest,)
