"""Variables: `${VAR}` in its forms, `.env`, `env_file`, and what ends up in a container's environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from client.compose.interpolate import CHARACTERS, NESTING, interpolated
from common.errors import Invalid
from tests.compose_files import Workspace

VARIABLES: Mapping[str, str] = {"SET": "value", "EMPTY": "", "OTHER": "other"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def replaced(text: str) -> str:
    missing: list[str] = []
    result = interpolated(text, VARIABLES, missing.append)
    assert not missing
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a $SET b", "a value b"),
        ("$SET$OTHER", "valueother"),
        ("${SET}s", "values"),
        ("${SET:-default}", "value"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY-default}", ""),
        ("${UNSET-default}", "default"),
        ("${UNSET:-}", ""),
        ("${UNSET:-${EMPTY:-$OTHER}!}", "other!"),
        ("${SET:-${UNSET:?never evaluated}}", "value"),
        ("${SET:?message}", "value"),
        ("${EMPTY?message}", ""),
        ("${SET:+there}", "there"),
        ("${EMPTY:+there}", ""),
        ("${EMPTY+there}", "there"),
        ("${UNSET+there}", ""),
        ("$$SET", "$SET"),
        ("$${PORT}", "${PORT}"),
        ("$$$SET", "$value"),
        ("}{", "}{"),
    ],
)
def test_forms_of_variables(text: str, expected: str) -> None:
    assert replaced(text) == expected


def test_a_name_is_as_long_as_it_can_be_and_unset_ones_are_told() -> None:
    missing: list[str] = []
    assert interpolated("<$SETs>", VARIABLES, missing.append) == "<>"
    assert missing == ["SETs"]


@pytest.mark.parametrize("text", ["$", "a $ b", "${", "${}", "${SET", "${SET:}", "${SET!}", "${1}", "${SET:-a", "$-"])
def test_malformed_variables_are_refused_with_the_forms(text: str) -> None:
    with pytest.raises(Invalid, match="is not a valid use of variables: write "):
        replaced(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${UNSET:?}", "variable UNSET is required but not set"),
        ("${UNSET?say $OTHER}", "variable UNSET is required but not set: say other"),
        ("${EMPTY:?message}", "variable EMPTY is required but empty: message"),
    ],
)
def test_required_variables(text: str, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        replaced(text)
    assert str(caught.value) == expected


def test_defaults_nest_up_to_a_bound() -> None:
    assert replaced("${A:-" * NESTING + "}" * NESTING) == ""
    with pytest.raises(Invalid, match="deep"):
        replaced("${A:-" * (NESTING + 1) + "}" * (NESTING + 1))


def test_what_variables_amount_to_is_bounded(workspace: Workspace) -> None:
    values = "\n".join(f"K{place}: $A" for place in range(CHARACTERS // 100_000 + 1))
    faults = workspace.faults(
        "services: {web: {image: a, environment: {" + values.replace("\n", ", ") + "}}}",
        environment={"A": "x" * 100_000},
    )
    assert f"longer than {CHARACTERS} characters in all" in faults[0]


def test_an_unset_variable_is_empty_and_a_warning_with_its_line(workspace: Workspace) -> None:
    project = workspace.load("services:\n  web:\n    image: shop\n    user: ${NOBODY}\n")
    assert project.specs[0].task.container.user == ""
    assert [warning.line for warning in project.warnings] == [4]
    assert "variable NOBODY is not set" in project.warnings[0].text


def test_a_plain_variable_is_the_number_it_stands_for(workspace: Workspace) -> None:
    assert workspace.service("scale: ${N:-3}").replicas == 3
    assert workspace.service("init: ${INIT}", {"INIT": "true"}).task.container.init


def test_a_variable_named_like_nothing_is_not_null(workspace: Workspace) -> None:
    spec = workspace.service("environment: {A: $EMPTY, B: $WORD}", {"EMPTY": "", "WORD": "null", "A": "shell"})
    assert spec.task.container.environment == {"A": "", "B": "null"}


def test_an_image_that_a_variable_leaves_empty_never_becomes_a_plain_process(workspace: Workspace) -> None:
    faults = workspace.faults("services: {web: {image: $IMAGE, command: rm -rf /data}}")
    advice = "name an image, or leave the key out to run the command as a plain process"
    assert faults == [f"compose.yaml:1: services.web.image: is empty: {advice}"]


def test_a_malformed_variable_is_a_fault_at_its_line(workspace: Workspace) -> None:
    assert workspace.service_faults("command: [sh, -c, 'echo $1']")[0].startswith(
        "compose.yaml:4: services.web.command[2]:"
    )


def test_keys_are_not_interpolated(workspace: Workspace) -> None:
    spec = workspace.service("labels: {$SET: a}", {"SET": "x"})
    assert spec.task.container.labels == {"$SET": "a"}


# --- .env


def test_the_env_file_beside_the_first_file_gives_variables_and_the_shell_wins(workspace: Workspace) -> None:
    workspace.write(".env", "TAG=from-file\nNAME=file\n")
    project = workspace.load("services: {web: {image: 'shop:$TAG', user: $NAME}}", environment={"NAME": "shell"})
    container = project.specs[0].task.container
    assert (container.image, container.user) == ("shop:from-file", "shell")


def test_the_grammar_of_env_files(workspace: Workspace) -> None:
    workspace.write(
        "web.env",
        r"""
        # a comment

        PLAIN=a value   # a comment
        HASH=a#b
        export EXPORTED=yes
        EMPTY=
        SINGLE='kept $PLAIN \n' # a comment
        DOUBLE="a \"b\" $PLAIN \$PLAIN\tc"
        SPACED = around
        LINES="one
        two"
        USES=${PLAIN}, ${SHELL_ONLY}
        FROM_SHELL
        NOT_THERE
        """,
    )
    spec = workspace.service("env_file: web.env", {"FROM_SHELL": "here", "SHELL_ONLY": "shell"})
    assert spec.task.container.environment == {
        "PLAIN": "a value",
        "HASH": "a#b",
        "EXPORTED": "yes",
        "EMPTY": "",
        "SINGLE": r"kept $PLAIN \n",
        "DOUBLE": 'a "b" a value $PLAIN\tc',
        "SPACED": "around",
        "LINES": "one\ntwo",
        "USES": "a value, shell",
        "FROM_SHELL": "here",
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("=value", "web.env:2: '=value' is not a variable: write NAME=value"),
        ("1A=b", "web.env:2: '1A=b' is not a variable: write NAME=value"),
        ("A B", "web.env:2: A: 'B' follows a name without =: write NAME=value"),
        ("A='b", "web.env:2: A: the ' that opens the value in line 2 is never closed"),
        ('A="b" c', "web.env:2: A: ' c' follows the closing \": only a comment may"),
        ("A=${", "web.env:2: A: '${' is not a valid use of variables"),
    ],
)
def test_malformed_lines_of_env_files_are_faults_with_file_and_line(
    workspace: Workspace, line: str, expected: str
) -> None:
    workspace.write("web.env", f"FINE=1\n{line}\n")
    assert workspace.service_faults("env_file: web.env")[0].startswith(expected)


def test_a_malformed_env_file_beside_the_project_is_a_fault(workspace: Workspace) -> None:
    workspace.write(".env", "=\n")
    assert workspace.faults("services: {web: {image: shop}}")[0].startswith(".env:1: '=' is not a variable")


# --- environment and env_file


def test_environment_as_list_and_as_map(workspace: Workspace) -> None:
    as_map = workspace.service("environment: {A: 1, B: 1.10, C: true, D: '', E: , F: }", {"E": "shell"})
    as_list = workspace.service('environment: ["A=1", "B=1.10", "C=true", "D=", "E", "F"]', {"E": "shell"})
    expected = {"A": "1", "B": "1.10", "C": "true", "D": "", "E": "shell"}
    assert as_map.task.container.environment == expected
    assert as_list.task.container.environment == expected


def test_later_files_win_and_environment_wins_over_files(workspace: Workspace) -> None:
    workspace.write("one.env", "A=one\nB=one\nC=one\n")
    workspace.write("two.env", "B=two\nC=two\n")
    spec = workspace.service("env_file: [one.env, {path: two.env}]\nenvironment: {C: own}")
    assert spec.task.container.environment == {"A": "one", "B": "two", "C": "own"}


def test_a_name_that_the_shell_lacks_is_not_there_even_if_a_file_has_it(workspace: Workspace) -> None:
    workspace.write("one.env", "A=file\nB=file\n")
    assert workspace.service("env_file: one.env\nenvironment: [A]").task.container.environment == {"B": "file"}


def test_the_long_form_of_env_files(workspace: Workspace) -> None:
    workspace.write("raw.env", "A='$kept' # too\n")
    spec = workspace.service("env_file:\n  - {path: raw.env, format: raw}\n  - {path: absent.env, required: false}\n")
    assert spec.task.container.environment == {"A": "'$kept' # too"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env_file: absent.env", "compose.yaml:4: services.web.env_file: 'absent.env' cannot be read: No such file"),
        ("env_file: [{required: false}]", "compose.yaml:4: services.web.env_file[0]: path is missing"),
        (
            "env_file: [{path: a, formt: raw}]",
            "compose.yaml:4: services.web.env_file[0].formt: is not a key of env_file",
        ),
        (
            "env_file: {path: a, format: json}",
            "compose.yaml:4: services.web.env_file.format: 'json' is given; allowed is raw",
        ),
        ("environment: 3", "compose.yaml:4: services.web.environment: the integer '3' is given; NAME: value pairs"),
        ("environment: {A: [1]}", "compose.yaml:4: services.web.environment.A: a list is given; a text is expected"),
        (
            "environment: [{A: 1}]",
            "compose.yaml:4: services.web.environment[0]: a mapping is given; NAME=value is expected",
        ),
        ('environment: ["=a"]', "compose.yaml:4: services.web.environment[0]: '' is not a name of a variable"),
        ("environment:\n  PODIUM_SLOT: 3", "compose.yaml:5: services.web.environment.PODIUM_SLOT: is set by the agent"),
        ('environment: {A: "\\0"}', "compose.yaml:4: services.web.environment.A: '\\x00' contains a NUL"),
    ],
)
def test_bad_environments(workspace: Workspace, text: str, expected: str) -> None:
    faults = workspace.service_faults(text)
    assert any(fault.startswith(expected) for fault in faults), faults


def test_a_bad_name_in_an_env_file_is_shown_where_the_file_is_named(workspace: Workspace) -> None:
    workspace.write("web.env", "PODIUM_NODE=mine\n")
    assert workspace.service_faults("env_file: web.env") == [
        "compose.yaml:4: services.web.env_file: is set by the agent and cannot be given"
    ]


def test_commands_keep_what_the_agent_expands(workspace: Workspace) -> None:
    assert workspace.service('command: ["serve", "$${PORT}"]').task.container.command == ("serve", "${PORT}")
