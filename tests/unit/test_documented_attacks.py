"""The table of attacks in docs/threat-model.md names tests that exist, and every test that was written for it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRITTEN_FOR_IT = (
    "unit/test_attacks_by_agents.py",
    "unit/test_attacks_by_callers.py",
    "unit/test_agents_last_word.py",
    "integration/test_floods.py",
    "integration/test_half_open_calls.py",
)
ALIKE = {
    "test_its_ports_are_those_of_the_task_each_once",
    "test_a_node_that_moved_binds_where_it_is_now",
    "test_times_that_no_calendar_has_and_endless_texts_are_not_stored",
    "test_an_agent_that_was_only_restarted_raises_no_alarm",
    "test_a_flood_of_tasks_that_nobody_knows_is_not_kept",
    "test_endless_lines_and_troubles_are_cut",
    "test_each_has_its_bound_and_all_of_them_together",
}
"""What the tests in the table would be wrong without; no attacks of their own."""


def rows() -> list[tuple[str, list[str]]]:
    page = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    table = page.partition("## Attack by attack")[2]
    found = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return [(attack.strip(), re.findall(r"`(test_\w+)`", tests)) for attack, tests in found[1:]]


def names_in(*files: Path) -> set[str]:
    return {
        name for file in files for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }


def test_every_attack_has_a_test_that_exists() -> None:
    known = names_in(*(ROOT / "tests").rglob("test_*.py"))
    assert len(rows()) > 20
    assert [(attack, name) for attack, names in rows() for name in names if name not in known] == []
    assert [attack for attack, names in rows() if not names] == []


def test_every_test_of_an_attack_is_in_the_table() -> None:
    listed = {name for _, names in rows() for name in names}
    assert names_in(*(ROOT / "tests" / name for name in WRITTEN_FOR_IT)) - listed - ALIKE == set()
