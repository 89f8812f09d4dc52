"""Compose files to job specs: `load` reads a project or raises `Invalid` with every fault, each with its line.

The one place that knows the Compose Specification; nothing here talks to a cluster. docs/compose.md says what is
honoured, ignored and refused.
"""

from collections.abc import Iterable

from client.compose.project import Project, default_files, load
from common.errors import Fault


def render(faults: Iterable[Fault]) -> str:
    """Faults (or warnings) as people read them, one in a line: `compose.yaml:12: services.web.image: ...`."""
    return "\n".join(str(fault) for fault in faults)


__all__ = ["Project", "default_files", "load", "render"]
