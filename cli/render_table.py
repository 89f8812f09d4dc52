"""What `-o table` prints: views as rows of short texts for people. Pure; drawing is `cli.output`'s.

Rows are made from the dictionaries of `cli.render_json`, so that both forms say the same.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cli.render_json import Plain

SHORT_ID_CHARACTERS = 8
MESSAGE_CHARACTERS = 100
TAIL_LINES = 3
"""Of a crash record, below its task in `ps --all`; `inspect` shows all of them."""


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """A table: column headings, and rows of as many texts. A row of one text is a note below the row before it."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def jobs(plain: Iterable[Plain], now_s: float) -> Grid:
    return Grid(
        headings=("JOB", "STATUS", "HEALTHY", "VERSION", "IMAGE", "PORTS", "AGE", "MESSAGE"),
        rows=tuple(
            (
                f"{job['namespace']}/{job['name']}",
                job["status"],
                _progress(job),
                str(job["version"]),
                job["image"] or "(process)",
                ", ".join(published(port) for port in job["ports"]),
                age(job["created_at"], now_s),
                clipped(job["message"]),
            )
            for job in plain
        ),
    )


def _progress(job: Plain) -> str:
    """Of a job whose tasks end, how many did so well."""
    done = (
        job["succeeded"] if job["mode"] in ("batch", "daemon-batch") and job["status"] != "running" else job["healthy"]
    )
    return f"{done}/{job['desired']}"


def published(port: Mapping[str, Any]) -> str:
    """`8080->80/tcp`, `127.0.0.1:8080->80/tcp` of each node alone, or the container's port alone."""
    where = "127.0.0.1:" if port.get("loopback") else ""
    outside = f"{where}{port['published']}->" if port["published"] else ""
    return f"{outside}{port['container']}/{port['protocol']}"


def tasks(plain: Iterable[Plain], now_s: float, *, attempts: bool) -> Grid:
    """With `attempts`, every ended attempt follows its task as notes."""
    rows: list[tuple[str, ...]] = []
    for task in plain:
        rows.append(_task(task, now_s))
        if attempts:
            rows += [(note,) for record in task["attempts"] for note in attempt_notes(record, now_s)]
    return Grid(
        headings=("ID", "TASK", "NODE", "STATE", "HEALTH", "RESTARTS", "PORTS", "AGE", "MESSAGE"), rows=tuple(rows)
    )


def _task(task: Plain, now_s: float) -> tuple[str, ...]:
    stopping = task["desired"] == "stop" and not task["ended_at"]
    return (
        short(task["id"]),
        f"{task['job']}.{task['slot']}",
        task["node"] or "-",
        f"{task['state']} (stopping)" if stopping else task["state"],
        "-" if task["health"] == "none" else task["health"],
        str(task["restarts"]),
        ", ".join(f"{port['host_address']}:{port['host_port']}->{port['container']}" for port in task["ports"]),
        age(task["started_at"] or task["created_at"], now_s),
        clipped(task["message"]),
    )


def attempt_notes(record: Plain, now_s: float) -> list[str]:
    """How one attempt ended, and its last words."""
    ending = ", ".join(part for part in (record["message"] or _exit(record), _memory(record)) if part)
    lines = [f"  attempt {record['number']}, {age(record['ended_at'], now_s)} ago: {clipped(ending)}"]
    lines += [f"    | {printable(line)}" for line in record["log_tail"][-TAIL_LINES:]]
    said = record["health_output"].strip()
    return lines if not said or said in record["message"] else [*lines, f"    last health check: {clipped(said)}"]


def _exit(record: Plain) -> str:
    if record["oom"]:
        return "out of memory"
    if record["signal"]:
        return str(record["signal"])
    return "" if record["exit_code"] is None else f"exit code {record['exit_code']}"


def _memory(record: Plain) -> str:
    limit = record["memory_limit_bytes"]
    return f"{size(record['memory_peak_bytes'])} of {size(limit)} used" if record["oom"] and limit else ""


def nodes(plain: Sequence[Plain], now_s: float) -> Grid:
    """With a column of devices where some node has any."""
    shown = any(node["devices"] for node in plain)
    devices = ("DEVICES",) if shown else ()
    return Grid(
        headings=(
            *("NODE", "STATUS", "AVAILABILITY", "ADDRESS", "CPU", "MEMORY", *devices),
            *("TASKS", "RUNTIMES", "LABELS", "SEEN"),
        ),
        rows=tuple(
            (
                node["name"],
                f"{node['status']} ({clipped(node['degraded'])})" if node["degraded"] else node["status"],
                node["availability"],
                node["address"],
                f"{cores(node['cpu_millis']['reserved'])}/{cores(node['cpu_millis']['capacity'])}",
                f"{size(node['memory_bytes']['reserved'])}/{size(node['memory_bytes']['capacity'])}",
                *((_devices(node["devices"]),) if shown else ()),
                str(node["tasks"]),
                ",".join(node["runtimes"]),
                ",".join(f"{key}={value}" for key, value in sorted(node["labels"].items())),
                f"{age(node['last_seen'], now_s)} ago" if node["last_seen"] else "never",
            )
            for node in plain
        ),
    )


def _devices(units: Iterable[Plain]) -> str:
    """`2 gpu A10, 1 fpga`."""
    numbers = Counter(f"{unit['kind']} {unit['model']}".strip() for unit in units)
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def cluster(plain: Plain) -> Grid:
    nodes = ", ".join(f"{number} {status}" for status, number in plain["nodes"].items() if number)
    return Grid(
        headings=("CLUSTER", ""),
        rows=(
            ("leader", plain["leader"] or "none"),
            ("controllers", ", ".join(_controller(address, plain["leader"]) for address in plain["controllers"])),
            ("epoch", f"generation {plain['epoch']['generation']}, term {plain['epoch']['term']}"),
            ("store", plain["store_health"] or plain["store"]),
            ("nodes", nodes or "none"),
            ("brake", f"engaged: {plain['brake_reason']}; `podium brake release`" if plain["brake"] else "released"),
            *(
                [("strays", f"{plain['strays']} tasks that the restored state does not know: `podium store strays`")]
                if plain["strays"]
                else []
            ),
            ("survives the loss of any node", "yes" if plain["survives_loss_of_any_node"] else "no"),
            *((f"  without {loss['node']}", _missing(loss)) for loss in plain["losses"]),
            *([("balance", _balance(plain))] if plain["rebalances"] else []),
            ("detection", plain["detection"]),
            ("timers", ", ".join(f"{name} {value:g} s" for name, value in sorted(plain["timers"].items()))),
            ("version", plain["version"]),
        ),
    )


def _missing(loss: Plain) -> str:
    return printable(loss["text"].removeprefix(f"without node {loss['node']}: "))


def _balance(plain: Plain) -> str:
    shown = [f"{move['job']}.{move['slot']} {move['node']} to {move['to']}" for move in plain["suggested_moves"][:3]]
    more = len(plain["suggested_moves"]) - len(shown)
    listed = ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])
    return f"{printable(plain['rebalances'])}: {listed}" if listed else printable(plain["rebalances"])


def _controller(address: str, leader: str) -> str:
    return f"{address} ({'leads' if address == leader else 'stands by'})"


def node_changes(plain: Iterable[Plain]) -> list[str]:
    """One line per node of what a write did: `node-b cordon: takes no new tasks; ...`."""
    return [f"{item['node']} {item['action']}: {printable(item['text'])}" for item in plain]


def brake_released(plain: Plain) -> list[str]:
    if not plain["released"]:
        return ["the brake was not engaged; nothing was released"]
    nodes = ", ".join(plain["nodes"]) or "none"
    return [f"released: {printable(plain['held'])}", f"counted as down from now on, and replaced: {nodes}"]


def quotas(plain: Iterable[Plain]) -> Grid:
    rows: list[tuple[str, ...]] = []
    for item in plain:
        rows.append(_limited(item, "tasks", item["tasks"], str))
        rows.append(_limited(item, "cpus", item["cpu_millis"], lambda millis: f"{millis / 1000:g}"))
        rows.append(_limited(item, "memory", item["memory_bytes"], size))
        rows += [_limited(item, kind, amount, lambda units: f"{units:g}") for kind, amount in item["devices"].items()]
    return Grid(headings=("NAMESPACE", "RESOURCE", "USED", "LIMIT"), rows=tuple(rows))


def _limited(item: Plain, name: str, amount: Plain, shown: Callable[[Any], str]) -> tuple[str, ...]:
    limit = "none" if amount["limit"] is None else shown(amount["limit"])
    return item["namespace"], name, shown(amount["used"]), limit


def events(plain: Iterable[Plain]) -> Grid:
    return Grid(headings=("TIME", "KIND", "SUBJECT", "MESSAGE"), rows=tuple(event(item) for item in plain))


def event(plain: Plain) -> tuple[str, ...]:
    cause = f" ({plain['cause']})" if plain["cause"] else ""
    return (plain["time"] or "-", plain["kind"], plain["subject"], printable(f"{plain['message']}{cause}"))


def changes(plain: Iterable[Plain]) -> list[str]:
    """One line per job of what a write did: `shop/web update (version 3): ...`."""
    return [
        f"{item['job']} {item['action']}"
        + (f" (version {item['version']})" if item["action"] in {"create", "update", "restart", "rollback"} else "")
        + (f": {printable(item['text'])}" if item["text"] else "")
        for item in plain
    ]


def why(plain: Plain) -> list[str]:
    lines = [f"{plain['subject']}: {printable(plain['verdict'])}"]
    lines += [f"  - {_reason(reason)}" for reason in plain["reasons"] if not _said(reason, plain["verdict"])]
    if plain["fixes"]:
        lines.append("what would help:")
    commands = [(printable(fix["text"]), fix["command"]) for fix in plain["fixes"]]
    return lines + [f"  - {text}: {command}" if command else f"  - {text}" for text, command in commands]


def _said(reason: Plain, verdict: str) -> bool:
    """Whether the verdict has the whole sentence already."""
    return bool(reason["text"]) and reason["text"] in verdict


def _reason(reason: Plain) -> str:
    text = printable(reason["text"] or _numbers(reason))
    place = reason["node"] or (f"{reason['nodes']} nodes" if reason["nodes"] > 1 else "")
    if not place or f"({reason['nodes']} of " in text:  # it says how many itself
        return text
    return f"{place}: {text}"


def _numbers(reason: Plain) -> str:
    return f"{reason['resource'] or reason['reason']}: needs {reason['need']}, has {reason['have']}"


# --- words and numbers


def short(identifier: str) -> str:
    return identifier[:SHORT_ID_CHARACTERS]


def age(moment: str | None, now_s: float) -> str:
    """How long ago, in the largest unit that is not zero: `42s`, `5m`, `3h`, `12d`; `-` for never."""
    if moment is None:
        return "-"
    passed_s = max(0, int(now_s - datetime.datetime.fromisoformat(moment).timestamp()))
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed_s >= 2 * seconds:
            return f"{passed_s // seconds}{unit}"
    return f"{passed_s}s"


def size(amount_bytes: int) -> str:
    """`512M`, `3.9G`: binary units, at most one decimal."""
    amount = float(amount_bytes)
    for unit in ("B", "K", "M", "G"):
        if amount < 1024:
            return f"{amount:.3g}{unit}" if amount < 10 else f"{amount:.0f}{unit}"
        amount /= 1024
    return f"{amount:.1f}T"


def cores(millis: int) -> str:
    return f"{millis / 1000:g}"


def printable(text: str) -> str:
    """Without what could steer a terminal: messages come from programs that we do not know."""
    return "".join(character if character.isprintable() else "·" for character in text.expandtabs(4))


def clipped(text: str, limit: int = MESSAGE_CHARACTERS) -> str:
    """On one line, and no longer than fits beside other columns."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"
