"""Which devices a node offers, and how a task is told which of them are its own."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from agent.container_request import request_of
from agent.devices import declared, found_gpus, of_this_machine
from agent.settings import AgentSettings
from common.errors import Invalid
from common.model.device import Device, DeviceGrant
from common.model.job import Container
from common.model.node import NodeDescription
from common.model.session import Register
from controller.dispatcher.registration import faults
from tests.agent_builders import assignment

GPUS = """\
0, GPU-7f0e1c7a-0001, NVIDIA A10
1, GPU-7f0e1c7a-0002, Tesla V100-SXM2-16GB
2, GPU-7f0e1c7a-0003, NVIDIA GeForce RTX 3090
"""


def program(folder: Path, text: str) -> str:
    """A stand-in for nvidia-smi."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# --- declared


def units(*texts: str) -> list[tuple[str, str, str]]:
    return [(device.kind, device.id, device.model) for device in declared(texts)]


def test_units_are_declared_by_number_or_by_id() -> None:
    assert units("fpga") == [("fpga", "0", "")]
    assert units("gpu:model=A10,count=2") == [("gpu", "0", "A10"), ("gpu", "1", "A10")]
    assert units("gpu:ids=GPU-7f0e+GPU-8a1b,model=NVIDIA A10") == [
        ("gpu", "GPU-7f0e", "NVIDIA A10"),
        ("gpu", "GPU-8a1b", "NVIDIA A10"),
    ]


def test_several_models_of_a_kind_are_numbered_on() -> None:
    assert [unit[1:] for unit in units("gpu:model=A10,count=2", "gpu:model=A100,count=2")] == [
        ("0", "A10"),
        ("1", "A10"),
        ("2", "A100"),
        ("3", "A100"),
    ]
    assert [unit[1] for unit in units("gpu:ids=1", "gpu:count=2", "fpga")] == ["1", "0", "2", "0"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not a name"),
        ("GPU", "'GPU' is not a name: use 1 to 63 of a-z"),
        ("gpu-share", "gpu-share ends in -share"),
        ("gpu:", "has '': write KIND, or KIND:model=MODEL,count=N"),
        ("gpu:2", "has '2': write KIND, or"),
        ("gpu:modle=A10", "has 'modle=A10': write KIND, or"),
        ("gpu:model=", "has 'model=': write KIND, or"),
        ("gpu:count=0", "has count 0: allowed is 1 to 128"),
        ("gpu:count=129", "has count 129: allowed is 1 to 128"),
        ("gpu:count=-1", "has count -1: allowed is 1 to 128"),
        ("gpu:count=two", "has count two: allowed is 1 to 128"),
        ("gpu:count=1,count=2", "has count twice"),
        ("gpu:count=1,ids=0", "has both count and ids"),
        ("gpu:ids=0+0", "gpu 0 is given 2 times"),
        ("gpu:ids=0+", "'' is not an id of a device"),
        ("gpu:ids=a b", "'a b' is not an id of a device"),
        ("gpu:model= A10", "' A10' is not a model"),
    ],
)
def test_what_cannot_be_declared_says_why(text: str, said: str) -> None:
    with pytest.raises(Invalid) as raised:
        declared([text])
    assert said in str(raised.value)
    assert {fault.path for fault in raised.value.faults} == {"device"}


def test_all_faults_of_the_declarations_are_said_at_once() -> None:
    with pytest.raises(Invalid) as raised:
        declared(["gpu:count=0", "FPGA", "npu:ids=1", "npu:ids=1", "tpu:count=100", "tpu:count=100"])
    said = str(raised.value)
    for part in ("count 0", "'FPGA' is not a name", "npu 1 is given 2 times", "there are 200 of tpu; at most 128"):
        assert part in said


def test_settings_of_another_program_are_checked_too() -> None:
    twice = (Device(kind="gpu", id="0"), Device(kind="gpu", id="0"))
    with pytest.raises(Invalid, match="device: gpu 0 is given 2 times"):
        AgentSettings(controllers=("127.0.0.1:7077",), data_dir="d", devices=twice).check()


def test_a_node_that_says_nonsense_of_its_devices_is_not_taken_in() -> None:
    good = NodeDescription(id="n1", name="n1", address="10.0.0.1", devices=(Device(kind="gpu", id="0"),))
    assert faults(Register(node=good)) == ()
    bad = msgspec.structs.replace(good, devices=(*good.devices, Device(kind="gpu", id="a,b")))
    (fault,) = faults(Register(node=bad))
    assert (fault.path, "'a,b' is not an id of a device" in fault.text) == ("node.devices", True)
    many = msgspec.structs.replace(good, devices=tuple(Device(kind=f"k{place}", id="0") for place in range(65)))
    assert [fault.text for fault in faults(Register(node=many))] == ["there are 65 kinds; at most 64 are allowed"]


# --- found


async def test_gpus_are_found_by_their_uuids(tmp_path: Path) -> None:
    listing = program(tmp_path, f"test \"$1\" = --query-gpu=index,uuid,name && cat <<'END'\n{GPUS}END")
    assert await found_gpus(listing) == (
        Device(kind="gpu", id="GPU-7f0e1c7a-0001", model="A10"),
        Device(kind="gpu", id="GPU-7f0e1c7a-0002", model="V100-SXM2-16GB"),
        Device(kind="gpu", id="GPU-7f0e1c7a-0003", model="GeForce RTX 3090"),
    )


async def test_declared_units_of_a_kind_stand_for_what_would_be_found_of_it(tmp_path: Path) -> None:
    listing = program(tmp_path, f"cat <<'END'\n{GPUS}END")
    gpu, fpga = declared(["gpu"]), declared(["fpga"])
    assert await of_this_machine(gpu, program=listing) == gpu
    assert [device.kind for device in await of_this_machine(fpga, program=listing)] == ["fpga", "gpu", "gpu", "gpu"]


async def test_a_machine_without_the_program_has_none_and_that_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await found_gpus(str(tmp_path / "nvidia-smi")) == ()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo 'NVIDIA-SMI has failed: no driver' >&2; exit 9", "exit code 9: NVIDIA-SMI has failed: no driver"),
        ("echo No devices were found", "'No devices were found' is no row of index, UUID and name"),
        ("printf '0, GPU-1, A10\\n1, GPU-1, A10\\n'", "gpu GPU-1 is given 2 times"),
        ("kill -9 $$", "exit code -9"),
    ],
)
async def test_a_driver_that_fails_costs_the_gpus_and_not_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    assert await found_gpus(program(tmp_path, text)) == ()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage()
    assert "--device gpu:count=N" in record.getMessage(), "what to do"


async def test_a_driver_that_hangs_costs_the_gpus_and_not_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await found_gpus(program(tmp_path, "exec sleep 600"), timeout_s=0.05) == ()
    assert "did not list them: no answer within 0.05 s" in caplog.text


async def test_a_program_that_cannot_be_run_costs_the_gpus_and_not_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "nvidia-smi"
    path.write_text("no program at all")
    path.chmod(0o755)
    assert await found_gpus(str(path)) == ()
    assert "Exec format error" in caplog.text


# --- told to the task


def told(*grants: DeviceGrant, image: str = "", **environment: str) -> dict[str, str]:
    """What the program hears of its devices."""
    container = Container(image=image, command=("run", "${PODIUM_DEVICE_GPU}"), environment=environment)
    given = msgspec.structs.replace(assignment(container=container), devices=grants)
    request = request_of(given, 1, (), node_id="id", node_name="n1", address="127.0.0.1")
    assert request.devices == grants
    heard = request.container.environment
    return {name: value for name, value in heard.items() if "DEVICE" in name}


def test_a_task_is_told_its_units_by_kind() -> None:
    grants = [DeviceGrant(kind="gpu", id="1"), DeviceGrant(kind="gpu", id="3"), DeviceGrant(kind="smart-nic", id="a")]
    assert told(*grants) == {
        "PODIUM_DEVICE_GPU": "1,3",
        "PODIUM_DEVICE_SMART_NIC": "a",
        "NVIDIA_VISIBLE_DEVICES": "1,3",
        "CUDA_VISIBLE_DEVICES": "1,3",
    }
    assert told() == {}


@pytest.mark.parametrize(("share_millis", "text"), [(500, "0.5"), (1, "0.001"), (999, "0.999")])
def test_a_task_is_told_its_share(share_millis: int, text: str) -> None:
    heard = told(DeviceGrant(kind="gpu", id="1", share_millis=share_millis))
    assert (heard["PODIUM_DEVICE_GPU"], heard["PODIUM_DEVICE_GPU_SHARE"]) == ("1", text)


def test_what_the_engineer_says_of_gpus_stands_and_of_podiums_names_does_not() -> None:
    grant = DeviceGrant(kind="gpu", id="1")
    heard = told(grant, CUDA_VISIBLE_DEVICES="0", NVIDIA_VISIBLE_DEVICES="none", PODIUM_DEVICE_GPU="0,1")
    assert heard == {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "none", "PODIUM_DEVICE_GPU": "1"}


def test_in_a_container_cuda_is_told_only_ids_that_mean_the_same_there() -> None:
    """The engine shows a container its own GPUs numbered from 0: the machine's number 1 would be none of them."""
    numbered = told(DeviceGrant(kind="gpu", id="1"), image="trainer:1")
    assert numbered == {"PODIUM_DEVICE_GPU": "1", "NVIDIA_VISIBLE_DEVICES": "1"}
    found = told(DeviceGrant(kind="gpu", id="GPU-7f0e"), image="trainer:1")
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-7f0e"


def test_a_command_can_name_its_units() -> None:
    container = Container(command=("train", "--gpus=${PODIUM_DEVICE_GPU}"))
    given = msgspec.structs.replace(assignment(container=container), devices=(DeviceGrant(kind="gpu", id="3"),))
    request = request_of(given, 1, (), node_id="id", node_name="n1", address="127.0.0.1")
    assert request.container.command == ("train", "--gpus=3")
