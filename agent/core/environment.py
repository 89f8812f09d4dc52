"""What a task's program is told: its environment, and `${NAME}` in its command. Never looks at the agent's own.

`${NAME}` of a name in the task's environment becomes its value, as a shell would do it, and `$${NAME}` is an escape for
a literal `${NAME}`. Everything else stays as it is: `$NAME`, `$$`, `${NAME:-default}` and names the environment lacks
belong to the program, often a shell with variables of its own (or of its image) that the agent cannot know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from common.asset_rules import variable
from common.model.asset import AssetMount
from common.model.device import WHOLE_MILLIS, DeviceGrant
from common.model.session import Assignment
from common.model.task import PortBinding

GPU = "gpu"
_DRIVER_ID_PREFIX = "GPU-"
_REFERENCE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand(text: str, environment: dict[str, str]) -> str:
    """`text` with the references above replaced, in one pass: a value is never expanded again."""

    def value_of(match: re.Match[str]) -> str:
        escape, name = match.groups()
        whole = match.group()
        return whole[1:] if escape else environment.get(name, whole)

    return _REFERENCE.sub(value_of, text)


def identity_environment(assignment: Assignment, node_name: str, address: str) -> dict[str, str]:
    """The variables every task gets. They win over the engineer's: programs must be able to trust them."""
    fencing = {"PODIUM_FENCING_TOKEN": str(assignment.fencing_token)} if assignment.fencing_token else {}
    return {
        "PODIUM_TASK_ID": assignment.task_id,
        "PODIUM_NAMESPACE": assignment.namespace,
        "PODIUM_JOB": assignment.job,
        "PODIUM_SLOT": str(assignment.slot),
        "PODIUM_NODE": node_name,
        "PODIUM_NODE_ADDRESS": address,
        **fencing,
    }


def port_environment(bindings: tuple[PortBinding, ...]) -> dict[str, str]:
    """Where a process task must listen: `PORT` for its first port, `PODIUM_PORT_<container port>` for each."""
    named = {f"PODIUM_PORT_{binding.container_port}": str(binding.host_port) for binding in bindings}
    return {"PORT": str(bindings[0].host_port), **named} if bindings else {}


def device_environment(grants: Sequence[DeviceGrant]) -> dict[str, str]:
    """Which units the task may use: `PODIUM_DEVICE_<KIND>`, and of a shared one `PODIUM_DEVICE_<KIND>_SHARE`."""
    told: dict[str, str] = {}
    for kind in dict.fromkeys(grant.kind for grant in grants):
        name = f"PODIUM_DEVICE_{kind.upper().replace('-', '_')}"
        told[name] = ",".join(grant.id for grant in grants if grant.kind == kind)
        share = min(grant.share_millis for grant in grants if grant.kind == kind)
        if share < WHOLE_MILLIS:
            told[f"{name}_SHARE"] = f"{share / WHOLE_MILLIS:g}"
    return told


def asset_environment(mounts: Sequence[AssetMount], files: PurePath | None) -> dict[str, str]:
    """Where each config and secret is: `PODIUM_CONFIG_<NAME>` and `PODIUM_SECRET_<NAME>`; of several places the first.

    A plain process sees the node's files: there they are below `files`.
    """
    told: dict[str, str] = {}
    for mount in mounts:
        told.setdefault(variable(mount), f"{files or ''}{mount.target}")
    return told


def gpu_environment(grants: Sequence[DeviceGrant], *, process: bool, given: Mapping[str, str]) -> dict[str, str]:
    """The same in the words of NVIDIA's container runtime and of CUDA, but for what the engineer has `given`.

    A container's runtime shows it the granted GPUs only and numbers them from 0, so there CUDA is told ids that are
    the same everywhere, never the machine's numbers.
    """
    units = [grant.id for grant in grants if grant.kind == GPU]
    if not units:
        return {}
    told = {"NVIDIA_VISIBLE_DEVICES": ",".join(units)}
    if process or all(has_driver_id(unit) for unit in units):
        told["CUDA_VISIBLE_DEVICES"] = ",".join(units)
    return {name: value for name, value in told.items() if name not in given}


def has_driver_id(unit: str) -> bool:
    """Whether a GPU is known by the id that NVIDIA's driver gave it."""
    return unit.startswith(_DRIVER_ID_PREFIX)
