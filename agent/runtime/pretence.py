"""What a pretended container does, as its job says in its environment: for jobs that end, on nodes that only pretend.

| variable | means | default |
|---|---|---|
| `PODIUM_PRETEND_SECONDS` | it ends this long after its start | it runs until it is stopped |
| `PODIUM_PRETEND_FAIL_EVERY` | of every so many slots the last one ends with code 1 | none does |
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from agent.runtime.fake import Behaviour
from agent.runtime.interface import ContainerRequest
from common.errors import Fault, Invalid

SECONDS, FAIL_EVERY = "PODIUM_PRETEND_SECONDS", "PODIUM_PRETEND_FAIL_EVERY"


def pretend(request: ContainerRequest) -> Behaviour:
    """What the container does; it cannot be created when a variable makes no sense."""
    environment = request.container.environment
    try:
        seconds, every = _number(environment, SECONDS), _number(environment, FAIL_EVERY)
    except Invalid as error:
        return Behaviour(create_error=error)
    if seconds is None:
        return Behaviour()
    fails = bool(every) and request.identity.slot % int(every or 1) == 0
    return Behaviour(exit_after_s=seconds, exit_code=int(fails), output=(f"pretended for {seconds:g} s",))


def _number(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0) or (name == FAIL_EVERY and number != int(number)):
        what = "a whole number" if name == FAIL_EVERY else "a number of seconds"
        raise Invalid([Fault(path=f"environment.{name}", text=f"{text!r} is not {what}, 0 or more")])
    return number
