"""What a task's program is told: its environment, and `${NAME}` in its command. Never looks at the agent's own.

`${NAME}` of a name in the task's environment becomes its value, as a shell would do it, and `$${NAME}` is an escape for
a literal `${NAME}`. Everything else stays as it is: `$NAME`, `$$`, `${NAME:-default}` and names the environment lacks
belong to the program, often a shell with variables of its own (or of its image) that the agent cannot know.
"""

from __future__ import annotations

import re

from common.model.session import Assignment
from common.model.task import PortBinding

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
