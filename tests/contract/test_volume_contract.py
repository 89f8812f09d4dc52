"""What every runtime promises about volumes, asked of all of them alike."""

from __future__ import annotations

import msgspec
import pytest

from agent.runtime.fake import Behaviour
from common.errors import Conflict
from common.model.job import Container, Mount, MountKind
from tests.contract.test_runtime_contract import AnyRig, begin, output, rig, until_ready

__all__ = ["rig"]
DATA = Mount(kind=MountKind.VOLUME, source="shop_data", target="/data")


def with_volume(rig: AnyRig, script: str, *said: str) -> Container:
    """`$DATA` is where its volume is."""
    container = rig.container(f'DATA="${{PODIUM_VOLUME_DATA:-/data}}"; {script}', Behaviour(output=said))
    return msgspec.structs.replace(container, mounts=(DATA,))


async def test_data_outlives_its_containers_and_is_deleted_only_on_request(rig: AnyRig) -> None:
    assert await rig.runtime.volumes() == ()
    first = await begin(rig, rig.request(with_volume(rig, 'echo kept > "$DATA/file"; echo ready; sleep 60', "ready")))
    await until_ready(rig, first.id)
    assert await rig.runtime.volumes() == ("shop_data",)
    with pytest.raises(Conflict):
        await rig.runtime.remove_volume("shop_data")
    await rig.runtime.stop_container(first.id, "SIGTERM", 0.5)
    await rig.runtime.remove(first.id)
    assert await rig.runtime.volumes() == ("shop_data",)

    second = await begin(rig, rig.request(with_volume(rig, 'cat "$DATA/file"', "kept")))
    if rig.executes:
        await rig.runtime.wait(second.id)
    assert await output(rig, second.id) == ["kept"]
    await rig.runtime.remove(second.id)
    await rig.runtime.remove_volume("shop_data")
    await rig.runtime.remove_volume("shop_data")
    assert await rig.runtime.volumes() == ()
