"""The commands that change things, over a transport of answers; and how all commands end, with which exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cli import deploy
from cli.progress import Deployment
from client.client import Client
from client.fake import FakeTransport
from client.settings import ClientSettings
from client.transport import (
    APPLY,
    JOBS,
    PAUSE,
    PLAN,
    PROMOTE,
    REMOVE,
    RESTART,
    RESUME,
    ROLLBACK,
    SCALE,
    STOP,
    WATCH,
    WHY,
)
from common.errors import Conflict, Fault, Invalid, NotFound, PodiumError
from common.model.api import (
    ApplyRequest,
    Changes,
    JobChange,
    JobDetail,
    JobStatus,
    Plan,
    RollbackRequest,
    WatchedJobs,
    WatchJobs,
)
from common.model.device import DeviceRequest
from common.model.task import Slot, TaskState
from common.model.verdict import Reason, Verdict
from tests.builders import attempt, job, job_view, task, task_view
from tests.cli_rig import Podium, live


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


# --- changing


def test_one_write_and_what_it_did(podium: Podium) -> None:
    changed = Changes(changes=(JobChange(job="shop/web", action="scale", text="from 1 to 5"),), warnings=("slow",))
    for method in (SCALE, RESTART, STOP, REMOVE, PAUSE, RESUME, PROMOTE, ROLLBACK):
        podium.fake.answer(method, changed)
    result = podium.run("scale", "web=5", "shop/api=0")
    assert (result.stdout, result.stderr) == ("shop/web scale: from 1 to 5\n", "warning: slow\n")
    targets = podium.asked("Jobs/Scale").targets
    assert [(target.job, target.replicas) for target in targets] == [("web", 5), ("shop/api", 0)]
    verbs = ("restart", "stop", "pause", "resume", "promote")
    for verb, method in (*((verb, verb.capitalize()) for verb in verbs), ("rm", "Remove")):
        assert podium.run(verb, "web", "-n", "shop").exit_code == 0
        request = podium.asked(f"Jobs/{method}")
        assert (request.namespace, request.jobs, request.all_jobs) == ("shop", ("web",), False)
    for words, version in ((("web",), 0), (("shop/web", "3"), 3)):
        assert podium.run("rollback", *words, "-n", "shop").exit_code == 0
        rolled = podium.fake.asked[-1].request
        assert isinstance(rolled, RollbackRequest)
        assert (rolled.namespace, rolled.job, rolled.version) == ("shop", words[0], version)
    assert podium.run("rollback", "web", "0").exit_code == 2


@pytest.mark.parametrize("target", ["web", "web=", "web=-1", "web=x", "=3", "web=1000000000", "web=٣"])
def test_scale_refuses_what_is_not_a_number_of_replicas(podium: Podium, target: str) -> None:
    result = podium.run("scale", target)
    assert result.exit_code == 2
    assert "JOB=N" in result.stderr
    assert podium.fake.asked == []


def applied(podium: Podium, *details: JobDetail, action: str = "create") -> None:
    """Apply answers that shop/web is at version 1; watching it shows these."""
    podium.fake.answer(APPLY, Changes(changes=(JobChange(job="shop/web", action=action, version=1),)))
    podium.fake.stream(WATCH, [WatchedJobs(jobs=(detail,)) for detail in details], then=asyncio.Event().wait)


def test_run_waits_until_the_job_is_well(podium: Podium) -> None:
    applied(podium, JobDetail(view=job_view(status=JobStatus.PROGRESSING, healthy=0)), JobDetail(view=job_view()))
    result = podium.run(
        "run",
        "app:1",
        "--name",
        "web",
        "-n",
        "shop",
        "-p",
        "8080:80",
        "-e",
        "K=a=b",
        "--replicas",
        "2",
        "--",
        "x",
        "-y",
    )
    assert (result.exit_code, result.stdout) == (0, "shop/web create (version 1)\n")
    assert result.stderr.splitlines() == ["web: 0/1 progressing", "web: 1/1 running"]
    spec = podium.asked("Jobs/Apply").specs[0]
    assert (spec.full_name, spec.replicas, spec.task.container.command) == ("shop/web", 2, ("x", "-y"))
    assert spec.task.container.environment == {"K": "a=b"}
    assert (spec.task.ports[0].published_port, spec.task.ports[0].container_port) == (8080, 80)


def test_run_names_a_job_after_its_image_and_a_dash_is_no_image(podium: Podium) -> None:
    applied(podium)
    assert podium.run("run", "registry.example:5000/shop/web_app:1.4", "-d").exit_code == 0
    assert podium.asked("Jobs/Apply").specs[0].name == "web-app"
    podium.fake.asked.clear()
    assert podium.run("run", "-", "--name", "web", "-d", "--", "sleep", "1").exit_code == 0
    assert podium.asked("Jobs/Apply").specs[0].task.container.image == ""
    assert "give --name" in podium.run("run", "-", "--", "sleep", "1").stderr


def test_run_asks_for_devices(podium: Podium) -> None:
    applied(podium)
    assert (
        podium.run("run", "app:1", "-d", "--device", "gpu=0.5", "--device", "fpga=2", "--device", "npu").exit_code == 0
    )
    assert podium.asked("Jobs/Apply").specs[0].task.devices == (
        DeviceRequest(kind="gpu", share_millis=500),
        DeviceRequest(kind="fpga", count=2),
        DeviceRequest(kind="npu"),
    )
    podium.fake.asked.clear()
    wrong = podium.run("run", "app:1", "--device", "gpu=1.5", "--device", "gpu=0", "--device", "FPGA=1")
    assert wrong.exit_code == 2
    assert wrong.stderr.splitlines() == [
        "error: device: 'gpu=1.5': '1.5' is more than one device but no whole number: only one device can be shared",
        "error: device: 'gpu=0': '0' asks for no device: leave it out, or ask for more than 0",
    ]
    assert "task.devices[0].kind: 'FPGA' is not a name" in podium.run("run", "app:1", "--device", "FPGA=1").stderr
    assert "gpu is asked for already" in podium.run("run", "app:1", "--device", "gpu", "--device", "gpu=2").stderr
    assert podium.fake.asked == []


def test_run_lists_everything_wrong_at_once_and_asks_nobody(podium: Podium) -> None:
    result = podium.run(
        "run", "UPPER", "--name", "Not_A_Name", "-p", "x", "-p", "0:1", "-e", "=y", "--replicas", "100001"
    )
    assert result.exit_code == 2
    paths = [line.split(": ")[1] for line in result.stderr.splitlines()]
    assert paths == ["env", "publish", "publish", "name", "replicas", "task.container.image"]
    assert podium.run("run", "UPPER").stderr.startswith("error: task.container.image: image reference 'UPPER'")
    assert podium.run("run", "app:1", "-p", "99999:80").exit_code == 2
    assert podium.run("run", "app:1", "-e", "=x", "-e", "y").stderr.count("KEY=VALUE") == 2
    assert podium.fake.asked == []


def test_a_failed_deployment_says_why_with_the_last_words(podium: Podium) -> None:
    failed = live(state=TaskState.FAILED)
    slot = Slot(job_id=failed.task.job_id, slot=1, attempts=(attempt(failed.task, 5, log_tail=("no such table",)),))
    view = job_view(status=JobStatus.FAILED, message="web.1 failed: exit code 1")
    applied(podium, JobDetail(view=view, tasks=(failed,), slots=(slot,)))
    result = podium.run("run", "app:1", "--name", "web", "-n", "shop")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-3:] == [
        "error: web: web.1 failed: exit code 1",
        "web.1 attempt 5: exit code 1",
        "  | no such table",
    ]


def test_time_up_is_a_failure_that_says_what_is_missing(podium: Podium) -> None:
    applied(podium, JobDetail(view=job_view(status=JobStatus.PROGRESSING, healthy=0, message="waits for db")))
    result = podium.run("run", "app:1", "--name", "web", "-n", "shop", "--timeout", "0")
    assert result.exit_code == 1
    assert "not healthy after 0 s" in result.stderr
    assert "web: progressing: waits for db" in result.stderr


def test_interrupting_the_wait_leaves_the_deployment_alone(podium: Podium) -> None:
    async def interrupted(address: str, request: WatchJobs) -> AsyncGenerator[WatchedJobs, None]:
        yield WatchedJobs(jobs=(JobDetail(view=job_view(status=JobStatus.PROGRESSING)),))
        raise KeyboardInterrupt

    applied(podium)
    podium.fake.stream(WATCH, interrupted)
    assert podium.run("run", "app:1", "--name", "web", "-n", "shop").exit_code == 130
    assert [asked.method for asked in podium.fake.asked] == ["Jobs/Apply", "Jobs/Watch"]


def test_down_waits_until_nothing_is_left(podium: Podium) -> None:
    being = JobDetail(view=job_view(status=JobStatus.STOPPED), tasks=(live(),))
    gone = JobDetail(view=replace(being.view, job=replace(being.view.job, removed=True)))
    podium.fake.answer(REMOVE, Changes(changes=(JobChange(job="shop/web", action="remove"),)))
    podium.fake.stream(WATCH, [WatchedJobs(jobs=(being,)), WatchedJobs(jobs=(gone,))], then=asyncio.Event().wait)
    result = podium.run("down", "-p", "shop")
    assert (result.exit_code, result.stdout) == (0, "shop/web remove\n")
    assert podium.asked("Jobs/Remove").all_jobs
    podium.fake.stream(WATCH, [WatchedJobs(jobs=(being,))], then=asyncio.Event().wait)
    result = podium.run("down", "-p", "shop", "--timeout", "0.01")
    assert result.exit_code == 1
    assert "still stopping after 0.01 s: shop/web" in result.stderr


def test_down_of_nothing(podium: Podium) -> None:
    podium.fake.answer(REMOVE, Changes())
    result = podium.run("down", "-p", "shop")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing in namespace shop" in result.stderr


# --- Compose files

COMPOSE = """\
name: shop
services:
  web: {image: "app:${TAG:-1}", deploy: {replicas: 2}}
"""


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Compose file in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "compose.yaml"
    path.write_text(COMPOSE)
    return path


@pytest.mark.usefixtures("compose")
def test_up_submits_the_file_found_here_and_waits(podium: Podium) -> None:
    podium.environ["TAG"] = "2"
    applied(podium, JobDetail(view=job_view()))
    result = podium.run("up", "--remove-orphans")
    assert (result.exit_code, result.stdout) == (0, "shop/web create (version 1)\n")
    request = podium.asked("Jobs/Apply")
    assert (request.namespace, request.remove_orphans) == ("shop", True)
    assert [(spec.full_name, spec.replicas, spec.task.container.image) for spec in request.specs] == [
        ("shop/web", 2, "app:2")
    ]
    assert podium.asked("Jobs/Watch").namespace == "shop"


@pytest.mark.usefixtures("compose")
def test_up_detached_does_not_watch(podium: Podium) -> None:
    applied(podium)
    assert podium.run("up", "--detach").exit_code == 0
    assert [asked.method for asked in podium.fake.asked] == ["Jobs/Apply"]


@pytest.mark.usefixtures("compose")
def test_the_project_is_p_then_n_then_the_variable_then_the_file(podium: Podium) -> None:
    applied(podium)
    podium.environ["PODIUM_NAMESPACE"] = "variable"
    for options in (("-p", "p", "-n", "n"), ("-n", "n"), ()):
        podium.run("up", "-d", *options)
    del podium.environ["PODIUM_NAMESPACE"]
    podium.run("up", "-d")
    assert [asked.request.namespace for asked in podium.fake.asked] == ["p", "n", "variable", "shop"]
    assert [asked.request.specs[0].namespace for asked in podium.fake.asked] == ["p", "n", "variable", "shop"]


@pytest.mark.usefixtures("compose")
def test_orphans_that_are_removed_are_not_waited_for(podium: Podium) -> None:
    changes = tuple(JobChange(job=f"shop/{name}", action=action, version=1) for name, action in UP_CHANGES)
    podium.fake.answer(APPLY, Changes(changes=changes))
    podium.fake.stream(WATCH, [WatchedJobs(jobs=(JobDetail(view=job_view()),))], then=asyncio.Event().wait)
    assert podium.run("up", "--remove-orphans").exit_code == 0


UP_CHANGES = (("web", "unchanged"), ("old", "remove"))


async def test_what_fits_nowhere_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = job()
    view = job_view(status=JobStatus.DEGRADED, healthy=0, message="fits on no node")
    waiting = JobDetail(view=view, tasks=(task_view(task(record)),))
    fake = FakeTransport()
    fake.stream(WATCH, [WatchedJobs(jobs=(waiting,))], then=asyncio.Event().wait)
    fake.answer(WHY, Verdict(subject="job shop/web", verdict="too big", reasons=(Reason(reason="r", text="8G"),)))
    async with Client(ClientSettings(), transport=fake) as client:
        code = await deploy.wait_well(client, "shop", Deployment({"web": 1}, unplaced_grace_s=0.0), timeout_s=30.0)
    assert code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-3:] == ["error: web: fits on no node", "job shop/web: too big", "  - 8G"]


@pytest.mark.usefixtures("compose")
def test_plan_and_a_dry_run_end_with_0_for_nothing_1_for_changes_and_2_for_errors(podium: Podium) -> None:
    for command in (("plan",), ("up", "--dry-run")):
        podium.fake.answer(PLAN, Plan(changes=(JobChange(job="shop/web", action="unchanged"),)))
        assert podium.run(*command).exit_code == 0
        podium.fake.answer(PLAN, Plan(changes=(JobChange(job="shop/web", action="create", version=1),)))
        result = podium.run(*command, "-o", "name")
        assert (result.exit_code, result.stdout) == (1, "shop/web\n")
        podium.fake.answer(PLAN, refusing(Conflict("shop/web is being removed")))
        assert podium.run(*command).exit_code == 2
    assert {asked.method for asked in podium.fake.asked} == {"Jobs/Plan"}


def test_validate_needs_no_controller_and_names_every_fault_with_its_line(podium: Podium, compose: Path) -> None:
    result = podium.run("validate", "-o", "json")
    assert json.loads(result.stdout)[0]["replicas"] == 2
    assert podium.run("validate").stdout == "shop/web\n"
    compose.write_text("name: shop\nservices:\n  web: {image: a, deploy: {replicas: -1}, imagee: b}\n")
    result = podium.run("validate")
    assert result.exit_code == 2
    assert "compose.yaml:3" in result.stderr
    assert "imagee" in result.stderr
    assert "replicas" in result.stderr
    assert podium.fake.asked == []


def test_without_a_file_there_is_nothing_to_deploy(
    podium: Podium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("up", "plan", "validate", "down"):
        result = podium.run(command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "no Compose file" in result.stderr


@pytest.mark.usefixtures("compose")
def test_down_takes_the_project_from_the_file(podium: Podium) -> None:
    podium.fake.answer(REMOVE, Changes())
    podium.run("down")
    assert podium.asked("Jobs/Remove").namespace == "shop"


# --- how commands end


def refusing(error: PodiumError) -> Any:
    def answer(address: str, request: ApplyRequest) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Invalid([Fault(path="a.b", text="is 1", file="f.yaml", line=3), Fault(path="", text="two")]), 2, "error: two"),
        (NotFound("no job shop/web"), 1, "error: no job shop/web: `podium jobs`"),
        (Conflict("shop/web is being removed"), 1, "error: shop/web is being removed\n"),
    ],
)
def test_every_error_has_its_exit_code_and_no_traceback(
    podium: Podium, error: PodiumError, code: int, said: str
) -> None:
    podium.fake.answer(JOBS, refusing(error))
    result = podium.run("jobs")
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_faults_of_files_have_their_line(podium: Podium) -> None:
    podium.fake.answer(JOBS, refusing(Invalid([Fault(path="a.b", text="is 1", file="f.yaml", line=3)])))
    assert podium.run("jobs").stderr == "error: f.yaml:3: a.b: is 1\n"


def test_no_controller_says_what_to_do(podium: Podium) -> None:
    result = podium.run("jobs", "--controller", "127.0.0.1:9,127.0.0.1:8")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: no controller answers at 127.0.0.1:9, 127.0.0.1:8: "
        "start one with `podium dev`, or name yours with --controller\n"
    )


def test_usage_errors_are_2(podium: Podium) -> None:
    for arguments in (("nope",), ("jobs", "--nope"), ("scale",), ("jobs", "-o", "xml"), ("logs", "a", "--tail", "-1")):
        assert podium.run(*arguments).exit_code == 2
    assert podium.run("ps", "a/b/c").exit_code == 2
    assert podium.run("events", "--since", "yesterday").exit_code == 2
    assert podium.run("jobs", "--controller", "10.0.0.1:7077").exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(podium: Podium, shell: str) -> None:
    result = podium.run("completion", shell)
    assert result.exit_code == 0
    assert "_PODIUM_COMPLETE" in result.stdout
