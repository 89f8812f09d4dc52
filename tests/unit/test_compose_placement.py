"""What a file says about where tasks go (constraints, affinities, strategy), and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.job import Affinity, Strategy
from tests.builders import constraint
from tests.compose_files import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def podium(text: str) -> str:
    return f"x-podium:\n  {text}"


SSD = constraint("node.labels.disk == ssd")


@pytest.mark.parametrize(
    ("keys", "affinity"),
    [
        ("affinity: [node.labels.disk == ssd]", Affinity(constraint=SSD)),
        ('affinity: [{constraint: "node.labels.disk == ssd", weight: 80}]', Affinity(constraint=SSD, weight=80)),
        ("anti_affinity: [node.labels.disk == ssd]", Affinity(constraint=SSD, apart=True)),
        ("affinity: [{job: db}]", Affinity(job="test/db")),
        ("affinity: [{job: other/db, required: true}]", Affinity(job="other/db", required=True)),
        (
            "anti_affinity: [{job: web, within: node.hostname, required: true}]",
            Affinity(job="test/web", within="node.name", apart=True, required=True),
        ),
    ],
)
def test_where_tasks_would_rather_be(workspace: Workspace, keys: str, affinity: Affinity) -> None:
    assert workspace.service(podium(keys)).task.placement.affinities == (affinity,)


def test_affinities_of_both_kinds_are_read(workspace: Workspace) -> None:
    keys = "affinity: [{job: db}, {job: cache}]\n  anti_affinity: [{job: batch}]"
    found = workspace.service(podium(keys)).task.placement.affinities
    assert [(one.job, one.apart) for one in found] == [("test/db", False), ("test/cache", False), ("test/batch", True)]


@pytest.mark.parametrize(
    ("keys", "path", "said"),
    [
        ("affinity: [node.labels.disk = ssd]", "affinity[0]", "'node.labels.disk = ssd' is not a constraint: write"),
        ("affinity: [{constraint: a}]", "affinity[0].constraint", "'a' is not a constraint: write ATTRIBUTE == VALUE"),
        ("affinity: [{}]", "affinity[0]", "must be given, or a constraint: what is the affinity to?"),
        ("affinity: [{job: DB}]", "affinity[0].job", "'DB' is not a name"),
        ("affinity: [{job: a/b/c}]", "affinity[0].job", "'b/c' is not a name"),
        ("affinity: [{job: db, weight: 0}]", "affinity[0].weight", "0 is out of range: allowed is 1 to 100"),
        ("affinity: [{job: db, weight: -5}]", "affinity[0].weight", "-5 is out of range"),
        ("affinity: [{job: db, weight: .nan}]", "affinity[0].weight", "the number '.nan' is given"),
        ("affinity: [{job: db, within: rack}]", "affinity[0].within", "'rack' is not an attribute of a node"),
        ("affinity: [{jobs: db}]", "affinity[0].jobs", "is not a key of an affinity (did you mean job?)"),
        (
            "affinity: [{job: db, required: true, weight: 5}]",
            "affinity[0].weight",
            "means nothing where required is true",
        ),
        (
            "anti_affinity: [{constraint: node.id == a, required: true}]",
            "anti_affinity[0].required",
            "nodes that a task must have are asked for with deploy.placement.constraints",
        ),
        (
            "affinity: [{constraint: node.id == a, job: db}]",
            "affinity[0].job",
            "an affinity is to nodes (constraint) or to a job: give one of the two",
        ),
        ("strategy: random", "strategy", "'random' is given; allowed is spread or binpack"),
        ("strategy: cluster", "strategy", "'cluster' is given; allowed is spread or binpack"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(workspace: Workspace, keys: str, path: str, said: str) -> None:
    (fault,) = workspace.service_faults(podium(keys))
    assert fault.startswith(f"compose.yaml:5: services.web.x-podium.{path}: {said}")


@pytest.mark.parametrize(("given", "strategy"), [("spread", Strategy.SPREAD), ("binpack", Strategy.BINPACK)])
def test_a_job_may_say_its_strategy(workspace: Workspace, given: str, strategy: Strategy) -> None:
    assert workspace.service(podium(f"strategy: {given}")).task.placement.strategy is strategy


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("node.labels.size >= big", "'big' is given"),
        ("node.labels.zone in eu", "is not a constraint: write ATTRIBUTE == VALUE, != VALUE, in (VALUE, ...)"),
        ("node.role == worker", "node.role: every Podium node runs tasks"),
    ],
)
def test_a_constraint_that_does_not_parse_is_refused_with_its_line(workspace: Workspace, rule: str, said: str) -> None:
    keys = f"deploy:\n  placement:\n    constraints:\n      - node.id == a\n      - {rule}"
    (fault,) = workspace.service_faults(keys)
    assert fault.startswith("compose.yaml:8: services.web.deploy.placement.constraints[1]: ")
    assert said in fault
