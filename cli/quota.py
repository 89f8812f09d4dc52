"""`podium quota`: what a namespace may have and what its jobs ask for, shown and changed."""

from __future__ import annotations

from collections.abc import Iterable

from cli import render_json, render_table
from cli.errors import DONE
from cli.messages import say
from cli.options import OutputFormat
from cli.output import show
from cli.parsing import invalid, size_bytes
from client.client import Client
from common.errors import Fault, Invalid
from common.model.api import QuotaView
from common.model.quota import CPU, DEVICES, MEMORY, TASKS
from common.units import parse_cpu_millis, parse_devices

NO_LIMIT = "none"


async def quotas(client: Client, namespace: str, output: OutputFormat) -> int:
    _show(await client.quotas(namespace), output)
    return DONE


async def set_quota(client: Client, namespace: str, items: Iterable[str], output: OutputFormat) -> int:
    limits, lifted = parse_limits(items)
    return _changed(await client.set_quota(namespace, limits, lifted), output)


async def lift(client: Client, namespace: str, output: OutputFormat) -> int:
    return _changed(await client.set_quota(namespace, {}, lift_all=True), output)


def parse_limits(items: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Limits by resource, and those that are lifted. Raises `Invalid` with everything that is wrong."""
    limits: dict[str, int] = {}
    lifted: list[str] = []
    faults: list[Fault] = []
    for item in items:
        key, _, text = item.partition("=")
        name = {"cpus": CPU, "memory": MEMORY, "tasks": TASKS}.get(key, f"{DEVICES}{key}")
        try:
            if not key or not text:
                raise invalid(item, "is not NAME=LIMIT: give e.g. cpus=8 memory=32G tasks=200 gpu=4, or cpus=none")
            if name in limits or name in lifted:
                raise invalid(key, "is given twice")
            if text == NO_LIMIT:
                lifted.append(name)
            else:
                limits[name] = _limit(key, name, text)
        except Invalid as error:
            faults += error.faults
    if faults:
        raise Invalid(faults)
    return limits, lifted


def _limit(key: str, name: str, text: str) -> int:
    if text == "0":
        return 0
    try:
        match name:
            case "cpu_millis":
                return parse_cpu_millis(text)
            case "memory_bytes":
                return size_bytes(key, text)
            case "tasks":
                return _tasks(text)
            case _:
                count, share_millis = parse_devices(text)
                return count * share_millis
    except Invalid as error:
        raise Invalid(Fault(path=key, text=fault.text) for fault in error.faults) from None


def _tasks(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise invalid(TASKS, f"{text!r} is not a number of tasks: give e.g. tasks=200")
    return int(text)


def _changed(view: QuotaView, output: OutputFormat) -> int:
    for warning in view.warnings:
        say(f"warning: {warning}")
    _show([view], output)
    return DONE


def _show(views: Iterable[QuotaView], output: OutputFormat) -> None:
    plain = [render_json.quota(view) for view in views]
    show(output, plain, name=lambda item: str(item["namespace"]), table=lambda: render_table.quotas(plain))
