"""What pretended containers do is said by their jobs."""

from __future__ import annotations

import pytest

from agent.runtime.fake import Behaviour
from agent.runtime.interface import ContainerIdentity, ContainerRequest
from agent.runtime.pretence import FAIL_EVERY, SECONDS, pretend
from common.errors import Invalid
from common.model.job import Container


def behaviour(environment: dict[str, str], slot: int = 1) -> Behaviour:
    identity = ContainerIdentity(node_id="n", task_id="t", attempt=1, namespace="shop", job="web", slot=slot)
    return pretend(ContainerRequest(identity=identity, container=Container(environment=environment)))


def test_without_a_word_it_runs_until_it_is_stopped() -> None:
    assert behaviour({}) == Behaviour()


def test_it_ends_after_so_long_and_some_slots_fail() -> None:
    said = {SECONDS: "0.5", FAIL_EVERY: "3"}
    ends = [(one.exit_after_s, one.exit_code) for one in (behaviour(said, slot) for slot in (1, 2, 3, 6))]
    assert ends == [(0.5, 0), (0.5, 0), (0.5, 1), (0.5, 1)]
    assert behaviour({SECONDS: "2", FAIL_EVERY: "0"}, 3).exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "wants"),
    [
        (SECONDS, "soon", "a number of seconds"),
        (SECONDS, "-1", "a number of seconds"),
        (SECONDS, "inf", "a number of seconds"),
        (FAIL_EVERY, "2.5", "a whole number"),
    ],
)
def test_what_makes_no_sense_is_told_instead_of_guessed(name: str, text: str, wants: str) -> None:
    error = behaviour({name: text}).create_error
    assert isinstance(error, Invalid)
    assert f"environment.{name}: '{text}' is not {wants}" in str(error)
