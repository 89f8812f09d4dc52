"""An agent whose disk takes no writes: it loses nothing it was told, harms nothing, and goes on when there is room."""

from __future__ import annotations

from common.model.endpoint import Service
from common.model.session import Endpoints, Register
from common.model.task import TaskState
from tests.agent_builders import assignment, incremental, restart, stopped
from tests.agent_rig import Machine, orders
from tests.virtual_time import on_virtual_time


def fill(machine: Machine, *, full: bool = True) -> None:
    """SQLite refuses writes as it does on a full disk."""
    machine.journal._database.execute(f"PRAGMA query_only = {'ON' if full else 'OFF'}")


@on_virtual_time
async def test_a_stop_that_could_not_be_written_down_is_carried_out_when_there_is_room() -> None:
    machine = Machine()
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        fill(machine)
        controller.say(incremental(stopped(assignment()), sequence=2))
        await controller.beats(30)
        assert machine.engine.by_task("t1").running, "a successor of this agent would not know that it was to stop"
        fill(machine, full=False)
        await controller.until_state("t1", TaskState.STOPPED)


@on_virtual_time
async def test_a_crash_that_could_not_be_written_down_is_healed_when_there_is_room() -> None:
    machine = Machine()
    machine.controller.first = orders(assignment(restart=restart()))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        fill(machine)
        machine.engine.end(machine.engine.by_task("t1"), 1)
        await controller.beats(10)
        fill(machine, full=False)
        await controller.until_state("t1", TaskState.RUNNING, attempt=2)
        assert [attempt.exit_code for attempt in controller.attempts] == [1]


@on_virtual_time
async def test_a_full_disk_ends_no_session_and_keeps_no_endpoint_from_the_data_plane() -> None:
    machine = Machine()
    machine.controllers = ("c1:1", "c2:1")
    async with machine.running() as controller:
        await controller.until_registered()
        fill(machine)
        service = Service(namespace="shop", job="web", container_port=80, published_port=8080)
        controller.say(Endpoints(complete=True, revision=3, services=(service,)))
        await controller.beats(3)
        assert machine.data_plane.applied == [(3, (service,))]
        controller.away = {"c1:1"}
        controller.cut()
        await controller.until_registered(2)  # with a leader whose address cannot be remembered
        await controller.beats(3)
        assert len(controller.of(Register)) == 2
