"""Scenarios that run beside one another, each on a cluster of its own and judged by a test of its own.

Most of a fault's time is waiting: for time-outs, for silence to be noticed, for a freeze to last. What waits for one
cluster costs nothing on another, so scenarios that share nothing wait together: those of a module, or of all modules
with the same `BESIDE`. Only those that were chosen run, the first ones first.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

import pytest

AT_ONCE = 5
"""Each is a handful of processes, which two cores have to start."""
T = TypeVar("T")
P = ParamSpec("P")
Scenario: TypeAlias = Callable[..., Awaitable[None]]
Outcomes: TypeAlias = dict[str, BaseException | None]
"""How each scenario ended, by the id of its test; None: well."""


def beside(
    stage: Callable[[Path], AbstractAsyncContextManager[T]],
) -> Callable[[Callable[Concatenate[T, P], Awaitable[None]]], Callable[..., None]]:
    """The test of a scenario on what `stage` makes in a directory of the scenario's own; parameters may follow."""

    def mark(scenario: Callable[Concatenate[T, P], Awaitable[None]]) -> Callable[..., None]:
        async def run(directory: Path, *args: P.args, **kwargs: P.kwargs) -> None:
            async with stage(directory) as staged:
                await scenario(staged, *args, **kwargs)

        def test(request: pytest.FixtureRequest, outcomes: Outcomes, **_: object) -> None:
            if (error := outcomes[request.node.nodeid]) is not None:
                raise error

        asked = list(inspect.signature(test).parameters.values())[:2]
        parameters = list(inspect.signature(scenario).parameters.values())[1:]
        test.__signature__ = inspect.Signature([*asked, *parameters])  # type: ignore[attr-defined]
        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        test.scenario = run  # type: ignore[attr-defined]
        return test

    return mark


@asynccontextmanager
async def nothing(directory: Path) -> AsyncIterator[Path]:
    """The stage of a scenario that makes everything itself, in this directory."""
    yield directory


@pytest.fixture(scope="session")
def outcomes_by_group() -> dict[str, Outcomes]:
    return {}


@pytest.fixture
def outcomes(
    request: pytest.FixtureRequest, outcomes_by_group: dict[str, Outcomes], tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    """Of the group's chosen scenarios, all of which have run when it is there."""
    group = _group(request.module)
    if group not in outcomes_by_group:
        items = [item for item in request.session.items if isinstance(item, pytest.Function)]
        chosen = [item for item in items if hasattr(item.obj, "scenario") and _group(item.module) == group]
        directories = [tmp_path_factory.mktemp("beside") for _ in chosen]
        outcomes_by_group[group] = asyncio.run(_run(chosen, directories))
    return outcomes_by_group[group]


def _group(module: ModuleType) -> str:
    return str(getattr(module, "BESIDE", module.__name__))


async def _run(items: list[pytest.Function], directories: list[Path]) -> Outcomes:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: pytest.Function, directory: Path) -> None:
        async with slots:
            await item.obj.scenario(directory, **(item.callspec.params if hasattr(item, "callspec") else {}))

    ends = await asyncio.gather(*map(one, items, directories), return_exceptions=True)
    return {item.nodeid: end for item, end in zip(items, ends, strict=True)}
