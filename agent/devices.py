"""Which devices this node offers: units its operator declares, and GPUs that the driver's own program lists.

Never decides who gets them. Units are found once, when the agent begins: a machine gets no card while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import logging
import shutil
from collections.abc import Iterable, Sequence

from agent.core.environment import GPU
from common.devices import device_faults
from common.errors import Fault, Invalid
from common.model.device import Device
from common.settings import LIMITS

logger = logging.getLogger(__name__)

NVIDIA_SMI = "nvidia-smi"
QUERY = ("--query-gpu=index,uuid,name", "--format=csv,noheader")
FIND_TIMEOUT_S = 15.0
"""Without its persistence daemon the driver wakes every card first, which takes seconds on large machines."""
KILL_TIMEOUT_S = 1.0
_VENDOR_WORDS = ("NVIDIA ", "Tesla ")
"""In front of a model's name, depending on the driver's age; nobody would write them into a job."""
_KEYS = ("model", "count", "ids")
_FORM = "write KIND, or KIND:model=MODEL,count=N or KIND:model=MODEL,ids=ID+ID, e.g. gpu:model=A10,count=2"


def declared(texts: Iterable[str]) -> tuple[Device, ...]:
    """What `--device` says, each text e.g. `gpu:model=A10,count=2`. Raises `Invalid` with every fault.

    Units without ids are numbered on within their kind, as the driver does it.
    """
    units: list[Device] = []
    faults: list[Fault] = []
    for text in texts:
        try:
            units += _units(text, taken=[unit.id for unit in units if unit.kind == text.partition(":")[0]])
        except Invalid as error:
            faults += error.faults
    faults += [Fault(path="device", text=fault) for fault in device_faults(units)]
    if faults:
        raise Invalid(faults)
    return tuple(units)


def _units(text: str, taken: Sequence[str]) -> list[Device]:
    kind, colon, rest = text.partition(":")
    given = _pairs(text, rest) if colon else {}
    model = given.get("model", "")
    if "ids" in given and "count" in given:
        raise _wrong(text, "has both count and ids: give one of them")
    if "ids" in given:
        ids = given["ids"].split("+")
    else:
        free = (str(number) for number in range(2 * LIMITS.devices_per_kind) if str(number) not in taken)
        ids = [next(free) for _ in range(_count(text, given.get("count", "1")))]
    return [Device(kind=kind, id=unit, model=model) for unit in ids]


def _pairs(text: str, rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals or not value:
            raise _wrong(text, f"has {part!r}: {_FORM}")
        if key in found:
            raise _wrong(text, f"has {key} twice")
        found[key] = value
    return found


def _count(text: str, number: str) -> int:
    count = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else 0
    if not 1 <= count <= LIMITS.devices_per_kind:
        raise _wrong(text, f"has count {number}: allowed is 1 to {LIMITS.devices_per_kind}")
    return count


def _wrong(text: str, what: str) -> Invalid:
    return Invalid([Fault(path="device", text=f"{text!r} {what}")])


# --- what is found


async def of_this_machine(given: Sequence[Device], *, program: str = NVIDIA_SMI) -> tuple[Device, ...]:
    """The declared units, and the GPUs that are there unless units of that kind are declared."""
    if any(device.kind == GPU for device in given):
        return tuple(given)
    return (*given, *await found_gpus(program))


async def found_gpus(program: str = NVIDIA_SMI, *, timeout_s: float = FIND_TIMEOUT_S) -> tuple[Device, ...]:
    """As NVIDIA's program lists them; none, with a warning in the log, where it is there and does not work."""
    path = shutil.which(program)
    if path is None:
        return ()
    try:
        units = _listed(await _output(path, timeout_s))
    except (OSError, TimeoutError, Invalid) as error:
        reason = str(error) or f"no answer within {timeout_s:g} s"
        logger.warning(
            "this node offers no GPUs, %s did not list them: %s; mend it and restart the agent, or declare them with "
            "--device gpu:count=N",
            path,
            reason,
        )
        return ()
    logger.info("GPUs found: %s", ", ".join(f"{unit.id} ({unit.model})" for unit in units) or "none")
    return units


async def _output(path: str, timeout_s: float) -> str:
    """What the program says. Raises `Invalid` when it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        path, *QUERY, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, problem = await process.communicate()
    finally:
        if process.returncode is None:
            await _end(process)
    if process.returncode:
        said = (problem or output).decode(errors="replace").strip()
        raise Invalid(f"exit code {process.returncode}" + (f": {said[:200]}" if said else ""))
    return output.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Inside a driver that hangs, a program does not end for any signal: it is not waited for long."""
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.kill()
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await process.wait()


def _listed(output: str) -> tuple[Device, ...]:
    """Rows of `index, uuid, name`. Raises `Invalid` for anything else."""
    rows = [row for row in csv.reader(output.splitlines(), skipinitialspace=True) if row]
    if wrong := [row for row in rows if len(row) != 3]:
        raise Invalid(f"{', '.join(wrong[0])[:80]!r} is no row of index, UUID and name")
    units = tuple(Device(kind=GPU, id=uuid.strip(), model=_model(name)) for _, uuid, name in rows)
    if faults := device_faults(units):
        raise Invalid("; ".join(faults))
    return units


def _model(name: str) -> str:
    """`NVIDIA A10` is `A10`."""
    short = name.strip()
    for word in _VENDOR_WORDS:
        short = short.removeprefix(word)
    return short
