"""Configs and secrets in Compose files: what a service is given, and what is wrong with it, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.asset import AssetKind, AssetMount
from common.settings import LIMITS
from tests.compose_files import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.write("app.conf", "color=red\n")
    made.write("db.txt", "hunter2")
    return made


def project(service: str, top: str) -> str:
    return f"services:\n  web:\n    image: a\n    {service}\n{top}\n"


BOTH = "configs: {app: {file: ./app.conf}}\nsecrets: {db: {file: db.txt}}"


def test_short_names_have_the_usual_places_and_modes(workspace: Workspace) -> None:
    loaded = workspace.load("services: {web: {image: a, configs: [app], secrets: [db]}}\n" + BOTH)
    assert loaded.specs[0].task.container.assets == (
        AssetMount(kind=AssetKind.CONFIG, name="app", target="/app", mode=0o444),
        AssetMount(kind=AssetKind.SECRET, name="db", target="/run/secrets/db", mode=0o400),
    )
    assert [(one.path, one.content) for one in loaded.assets] == [
        ("configs.app", b"color=red\n"),
        ("secrets.db", b"hunter2"),
    ]
    assert "hunter2" not in repr(loaded)


def test_the_long_form_says_everything(workspace: Workspace) -> None:
    text = project(
        'secrets: [{source: db, target: pw, uid: "1000", gid: "1001", mode: 0440}]', "secrets: {db: {file: db.txt}}"
    )
    (mount,) = workspace.spec(text).task.container.assets
    assert (mount.target, mount.uid, mount.gid, mount.mode) == ("/run/secrets/pw", 1000, 1001, 0o440)


def test_contents_come_from_files_variables_and_the_text_itself(workspace: Workspace) -> None:
    text = (
        "services: {web: {image: a, configs: [one, two], secrets: [three, four]}}\n"
        'configs: {one: {content: "port=${PORT}"}, two: {environment: TWO, name: second}}\n'
        "secrets: {three: {environment: THREE}, four: {external: true, name: pw}, unused: {file: not-there}}\n"
    )
    loaded = workspace.load(text, environment={"PORT": "80", "TWO": "2", "THREE": "3"})
    assert [(one.name, one.content) for one in loaded.assets] == [
        ("one", b"port=80"),
        ("second", b"2"),
        ("three", b"3"),
        ("pw", None),
    ]


def test_a_later_file_takes_the_place_of_an_earlier_one(workspace: Workspace) -> None:
    later = "services: {web: {configs: [{source: other, target: /app}]}}\nconfigs: {other: {content: x}}\n"
    spec = workspace.spec("services: {web: {image: a, configs: [app]}}\nconfigs: {app: {file: app.conf}}\n", later)
    assert [(mount.name, mount.target) for mount in spec.task.container.assets] == [("other", "/app")]


@pytest.mark.parametrize(
    ("service", "top", "fault"),
    [
        (
            "configs: [nope]",
            BOTH,
            "compose.yaml:4: services.web.configs[0]: uses config 'nope', which the",
        ),
        ("configs: [ap]", BOTH, "(did you mean app?)"),
        (
            "configs: [app]",
            "configs: {app: {file: gone}}",
            "compose.yaml:5: configs.app.file: 'gone' cannot be read",
        ),
        ("configs: [app]", "configs: {app: {file: .}}", "is not a file"),
        ("configs: [app]", "configs: {app: {environment: GONE}}", "compose.yaml:5: configs.app.environment: variable"),
        (
            "configs: [app]",
            "configs: {app: {}}",
            "compose.yaml:5: configs.app: does not say where its content is",
        ),
        ("configs: [app]", "configs: {app: {file: a, content: b}}", "configs.app: says file and content: give one of"),
        (
            "secrets: [db]",
            "secrets: {db: {content: x}}",
            "secrets.db.content: is not supported by this version",
        ),
        ("configs: [app]", "configs: {app: {content: x, name: a/b}}", "configs.app: 'a/b' is not a name: use 1 to 64"),
        ("configs: [app, app]", BOTH, "compose.yaml:4: services.web.configs[1]: /app is a file already, in line 4"),
        ("configs: [{target: /x}]", BOTH, "services.web.configs[0]: source is missing: which config"),
        (
            "configs: [{source: app, target: /etc/../x}]",
            BOTH,
            "compose.yaml:4: services.web.configs[0].target: '/etc/../x' leads out of where it begins",
        ),
        (
            "secrets: [{source: db, target: ../x}]",
            BOTH,
            "services.web.secrets[0].target: '/run/secrets/../x' leads out",
        ),
        ("configs: [{source: app, mode: 01777}]", BOTH, "services.web.configs[0].mode: 0o1777 is out of range"),
        ("configs: [{source: app, mode: 440}]", BOTH, "services.web.configs[0].mode: '440' is not permissions: write"),
        ("configs: [{source: app, uid: -1}]", BOTH, "services.web.configs[0].uid: -1 is out of range"),
        ("configs: [{source: app, uid: me}]", BOTH, "services.web.configs[0].uid: the string 'me' is given"),
        ("{configs: [app], tmpfs: /app}", BOTH, ""),
        (
            "configs: [{source: app, target: /a}, {source: other, target: /a/b}]",
            "configs: {app: {file: app.conf}, other: {content: x}}",
            "services.web.configs[1].target: /a/b cannot be there, since config app is the file /a",
        ),
        (
            "configs: [a-b, a_b]",
            "configs: {a-b: {content: x}, a_b: {content: y}}",
            "a_b and a-b would both be told as PODIUM_CONFIG_A_B",
        ),
        (
            "configs: [{source: x, target: /x}, {source: y, target: /y}]",
            "configs: {x: {content: x, name: app}, y: {content: y, name: app}}",
            "configs.y: is app for the cluster, and so is configs.x: give one another name",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(workspace: Workspace, service: str, top: str, fault: str) -> None:
    if service.startswith("{"):
        text = f"services:\n  web: {{image: a, {service[1:]}\n{top}\n"
        assert any("/app is where a tmpfs is already" in one for one in workspace.faults(text))
        return
    faults = workspace.faults(project(service, top))
    assert any(fault in one.replace("'" + str(workspace.directory) + "/", "'") for one in faults), faults
    assert all(one.startswith("compose.yaml:") for one in faults)


def test_what_is_too_large_is_refused_before_anybody_is_asked(workspace: Workspace) -> None:
    workspace.write("big", "x" * (LIMITS.secret_bytes + 1))
    (fault,) = workspace.faults(project("secrets: [db]", "secrets: {db: {file: big}}"))
    most = LIMITS.secret_bytes
    assert fault == f"compose.yaml:5: secrets.db.file: is {most + 1} bytes; a secret has at most {most}"


def test_services_that_are_left_out_need_no_files(workspace: Workspace) -> None:
    text = (
        "services: {web: {image: a}, tool: {image: b, profiles: [x], secrets: [gone]}}\nsecrets: {gone: {file: gone}}\n"
    )
    assert workspace.load(text).assets == ()
