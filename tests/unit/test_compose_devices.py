"""The three ways in which a file asks for devices, and what is said of requests that nothing could meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.device import DeviceRequest
from tests.compose_files import Workspace

RESERVATIONS = "services.web.deploy.resources.reservations"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def podium(devices: str) -> str:
    return f"x-podium:\n  devices:\n    {devices}"


def reserved(text: str) -> str:
    return f"deploy:\n  resources:\n    reservations:\n      {text}"


@pytest.mark.parametrize(
    ("keys", "requests"),
    [
        (podium("gpu: 2"), (DeviceRequest(kind="gpu", count=2),)),
        (podium("gpu: 0.5"), (DeviceRequest(kind="gpu", share_millis=500),)),
        (podium("gpu: {count: 2}"), (DeviceRequest(kind="gpu", count=2),)),
        (podium("gpu: {share: 0.5}"), (DeviceRequest(kind="gpu", share_millis=500),)),
        (podium("gpu: {share: 1}"), (DeviceRequest(kind="gpu"),)),
        (podium("gpu: {count: 1, share: 0.25}"), (DeviceRequest(kind="gpu", share_millis=250),)),
        (podium("gpu: {models: A10}"), (DeviceRequest(kind="gpu", models=("A10",)),)),
        (
            podium("{gpu: {count: 2, models: [A10, A100]}, fpga: 1}"),
            (DeviceRequest(kind="gpu", count=2, models=("A10", "A100")), DeviceRequest(kind="fpga")),
        ),
        (
            reserved("devices: [{driver: nvidia, count: 2, capabilities: [gpu]}]"),
            (DeviceRequest(kind="gpu", count=2),),
        ),
        (
            reserved("generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]"),
            (DeviceRequest(kind="gpu", count=2),),
        ),
        (
            reserved("devices: [{count: 1, capabilities: [gpu]}]") + "\n" + podium("fpga: 2"),
            (DeviceRequest(kind="gpu"), DeviceRequest(kind="fpga", count=2)),
        ),
        (reserved("{devices: [], generic_resources: []}"), ()),
        ("gpus: [{driver: nvidia, count: 2}]", (DeviceRequest(kind="gpu", count=2),)),
        ("gpus: [{count: 1, capabilities: [gpu]}]", (DeviceRequest(kind="gpu"),)),
    ],
)
def test_what_a_task_needs(workspace: Workspace, keys: str, requests: tuple[DeviceRequest, ...]) -> None:
    assert workspace.service(keys).task.devices == requests


@pytest.mark.parametrize(
    ("devices", "path", "said"),
    [
        ("gpu: 0", "gpu", "'0' asks for no device: leave it out, or ask for more than 0"),
        ("gpu: -1", "gpu", "'-1' is not a number of devices"),
        ("gpu: 1.5", "gpu", "'1.5' is more than one device but no whole number: only one device can be shared"),
        ("gpu: all", "gpu", "'all' is not a number of devices"),
        ("gpu: 200", "gpu", "200 is out of range: allowed is 1 to 128"),
        ("gpu: [1]", "gpu", "a list is given; a mapping is expected"),
        ("GPU: 1", "GPU", "'GPU' is not a name"),
        ("gpu: {count: 0}", "gpu.count", "0 is out of range: allowed is 1 to 128"),
        ("gpu: {count: -2}", "gpu.count", "-2 is out of range"),
        ("gpu: {count: 0.5}", "gpu.count", "the number '0.5' is given; a whole number from 1 to 128 is expected"),
        ("gpu: {share: 1.5}", "gpu.share", "'1.5' is out of range: a share is of one device, more than 0 and at most"),
        ("gpu: {share: 0}", "gpu.share", "'0' is out of range"),
        ("gpu: {share: -0.5}", "gpu.share", "'-0.5' is not a share"),
        ("gpu: {share: .nan}", "gpu.share", "'.nan' is not a share"),
        ("gpu: {share: 0.0001}", "gpu.share", "'0.0001' is finer than 0.001 of a device"),
        ("gpu: {count: 2, share: 0.5}", "gpu.share", "a share is of one device, 2 are asked for: leave one of the two"),
        ("gpu: {models: [A10, '']}", "gpu.models[1]", "'' is not a model"),
        ("gpu: {modles: [A10]}", "gpu.modles", "is not a key of a device (did you mean models?)"),
    ],
)
def test_what_no_device_could_meet_is_refused_where_it_stands(
    workspace: Workspace, devices: str, path: str, said: str
) -> None:
    (fault,) = workspace.service_faults(podium(devices))
    assert fault.startswith(f"compose.yaml:6: services.web.x-podium.devices.{path}: {said}")


@pytest.mark.parametrize(
    ("keys", "path", "said"),
    [
        ("devices: [{count: all, capabilities: [gpu]}]", "devices[0].count", "'all' is given: nodes have different"),
        (
            "devices: [{capabilities: [gpu]}]",
            "devices[0]",
            "count is missing, which means all of the machine's in Comp",
        ),
        ("devices: [{count: 0, capabilities: [gpu]}]", "devices[0].count", "0 is out of range: allowed is 1 to 128"),
        ("devices: [{count: 1}]", "devices[0]", "capabilities must name gpu"),
        ("devices: [{count: 1, capabilities: [tpu]}]", "devices[0].capabilities", "capabilities must name gpu: others"),
        (
            "devices: [{count: 1, capabilities: [gpu, video]}]",
            "devices[0].capabilities",
            "'video': set NVIDIA_DRIVER_CAPABILITIES in environment instead",
        ),
        (
            "devices: [{count: 1, capabilities: [gpu], driver: amd}]",
            "devices[0].driver",
            "'amd' is given; allowed is nvidia",
        ),
        (
            "devices: [{device_ids: ['0'], capabilities: [gpu]}]",
            "devices[0].device_ids",
            "is not supported by this version: the scheduler chooses the units: say how many with count",
        ),
        (
            "devices: [{count: 1, capabilities: [gpu], options: {virtualization: x}}]",
            "devices[0].options",
            "is not supported by this version: they would not reach the driver",
        ),
        ("devices: [{}]", "devices[0]", "capabilities must name gpu"),
        ("devices: [gpu]", "devices[0]", "the string 'gpu' is given; a mapping is expected"),
        ("devices: {gpu: 1}", "devices", "a mapping is given; a list is expected"),
        ("generic_resources: [{}]", "generic_resources[0]", "discrete_resource_spec must be given, e.g. {kind: gpu,"),
        (
            "generic_resources: [{named_resource_spec: {kind: gpu, value: a}}]",
            "generic_resources[0].named_resource_spec",
            "is not supported by this version: the scheduler chooses the units",
        ),
        (
            "generic_resources: [{discrete_resource_spec: {kind: gpu}}]",
            "generic_resources[0].discrete_resource_spec",
            "value must be given",
        ),
        (
            "generic_resources: [{discrete_resource_spec: {kind: gpu, value: 0}}]",
            "generic_resources[0].discrete_resource_spec.value",
            "0 is out of range",
        ),
        (
            "generic_resources: [{discrete_resource_spec: {kind: GPU, value: 1}}]",
            "generic_resources[0].discrete_resource_spec.kind",
            "'GPU' is not a name",
        ),
    ],
)
def test_so_is_what_compose_and_swarm_can_say_and_podium_cannot_do(
    workspace: Workspace, keys: str, path: str, said: str
) -> None:
    found = workspace.service_faults(reserved(keys))
    assert found[0].startswith(f"compose.yaml:7: {RESERVATIONS}.{path}: {said}")
    assert all(f"{RESERVATIONS}.{path.partition('.')[0]}" in fault for fault in found)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            reserved("generic_resources: [{discrete_resource_spec: {kind: gpu, value: 1}}]") + "\n" + podium("gpu: 1"),
            f"10: services.web.x-podium.devices.gpu: gpu is asked for already by {RESERVATIONS}.generic_resources[0]",
        ),
        (
            reserved("devices: [{count: 1, capabilities: [gpu]}, {count: 2, capabilities: [gpu]}]"),
            f"7: {RESERVATIONS}.devices[1]: gpu is asked for already by {RESERVATIONS}.devices[0]",
        ),
    ],
)
def test_a_kind_is_asked_for_once_in_whatever_way(workspace: Workspace, keys: str, expected: str) -> None:
    assert workspace.service_faults(keys) == [f"compose.yaml:{expected} in line 7: ask once"]


@pytest.mark.parametrize(
    ("gpus", "fault"),
    [
        ("all", "gpus: 'all' is given: nodes have different numbers of devices; say how many"),
        ("2", "gpus: the integer '2' is given; a list is expected"),
        ("[{driver: amd, count: 1}]", "gpus[0].driver: 'amd' is given; allowed is nvidia"),
        ("[{count: 1, capabilities: [compute]}]", "gpus[0].capabilities: capabilities must name gpu"),
        ("[{count: 1, options: {a: b}}]", "gpus[0].options: is not supported by this version"),
    ],
)
def test_gpus_of_the_service(workspace: Workspace, gpus: str, fault: str) -> None:
    (found,) = workspace.service_faults(f"gpus: {gpus}")
    assert found.startswith(f"compose.yaml:4: services.web.{fault}")


def test_a_request_that_changes_makes_another_version(workspace: Workspace) -> None:
    assert workspace.service(podium("gpu: 1")).task != workspace.service(podium("gpu: 0.5")).task


def test_the_variables_that_tell_of_devices_cannot_be_set(workspace: Workspace) -> None:
    (fault,) = workspace.service_faults("environment: {PODIUM_DEVICE_GPU: '0'}")
    assert fault.endswith("environment.PODIUM_DEVICE_GPU: is set by the agent and cannot be given")
