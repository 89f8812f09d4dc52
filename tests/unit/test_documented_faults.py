"""The table of faults in docs/testing.md names scenarios and tests that exist, and every scenario there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sim import plays_leader, plays_long, plays_nodes, plays_store
from tests.sim.test_faults import PLAYS

ROOT = Path(__file__).resolve().parents[2]
MODULES = (plays_leader, plays_long, plays_nodes, plays_store)


def named() -> list[str]:
    page = (ROOT / "docs" / "testing.md").read_text()
    (table,) = re.findall(r"^## Fault by fault\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    return re.findall(r"`([a-z_.]+)`", table)


def test_every_scenario_is_in_the_table_and_every_one_in_the_table_is_played() -> None:
    plays = {f"{play.__module__.rpartition('.')[2]}.{play.__name__}" for play in PLAYS}
    assert {name for name in named() if name.startswith("plays_")} == plays


def test_every_scenario_is_played() -> None:
    scenarios = [
        function
        for module in MODULES
        for function in vars(module).values()
        if getattr(function, "__module__", "") == module.__name__ and _is_scenario(function)
    ]
    assert set(scenarios) == set(PLAYS)


def _is_scenario(function: object) -> bool:
    """Public, and needs nothing but the cluster."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", "_")
    return code is not None and not name.startswith("_") and code.co_varnames[: code.co_argcount] == ("play",)


def test_every_test_in_the_table_exists() -> None:
    source = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    tests = [name for name in named() if name.startswith("test_")]
    assert tests
    assert [name for name in tests if f"def {name}(" not in source] == []
