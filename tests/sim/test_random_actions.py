"""A thousand random kills, cuts, restarts, updates and scalings end converged, and no rule is broken on the way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import msgspec
import pytest

from common.model.autoscale import Autoscale
from common.model.epoch import Epoch
from common.model.job import Job, JobVersion
from common.model.task import Task
from controller.store.interface import Put
from controller.store.keys import encode, key_of
from tests.builders import job, task
from tests.sim.record import Record, Violation
from tests.sim.simulate import Faults, simulate
from tests.sim.witness import Witness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize("seed", [1, 129])
def test_a_thousand_random_actions_end_converged_with_no_slot_doubled(seed: int) -> None:
    """Seeds above a hundred broke something once."""
    outcome = simulate(seed, 1_000)
    assert outcome.counts["action"] == 1_000
    assert outcome.counts["converged"] == 1
    assert outcome.counts["start"] > 500


def test_faults_of_the_control_plane_alone_touch_no_container() -> None:
    outcome = simulate(1, 300, faults=Faults.CONTROL_PLANE)
    assert outcome.counts["action"] == 300


def test_a_seed_replays_to_the_byte_whatever_the_hashes_are() -> None:
    digest = simulate(7, 60).digest
    assert digest != simulate(8, 60).digest
    for hash_seed in ("1", "2"):
        replay = subprocess.run(  # ourselves
            [sys.executable, "-m", "tests.sim", "--seed", "7", "--actions", "60"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f'"digest":"{digest}"' in replay.stdout


def seen_by_the_witness(*records: Job | JobVersion | Task) -> Record:
    """One commit of each, in order."""
    record = Record()

    async def look() -> None:
        witness = Witness(record)
        for one in records:
            witness.committed(Epoch(term=1), Epoch(term=1), [Put(key=key_of(one), value=encode(one))])

    asyncio.run(look())
    return record


def test_numbers_that_follow_no_load_are_seen() -> None:
    web, version = job()
    web = msgspec.structs.replace(web, replicas=2, autoscale=Autoscale(least=1, most=3, cpu_percent=70))
    more, fewer = (msgspec.structs.replace(web, replicas=replicas) for replicas in (3, 1))
    seen_by_the_witness(web, version, more).check()
    seen_by_the_witness(web, version, fewer).check()
    with pytest.raises(Violation, match="it flaps: web goes from 3 to 1"):
        seen_by_the_witness(web, version, more, fewer).check()
    with pytest.raises(Violation, match="web has 4 replicas of 1 to 3"):
        seen_by_the_witness(web, version, msgspec.structs.replace(web, replicas=4)).check()


def test_two_wanted_tasks_of_one_slot_are_seen() -> None:
    web, version = job()
    with pytest.raises(Violation, match="a slot is doubled"):
        seen_by_the_witness(web, version, task(web), task(web, suffix="b")).check()
    seen_by_the_witness(web, version, task(web), task(web, slot=2)).check()
