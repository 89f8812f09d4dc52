"""Any YAML is read with its lines, or refused with one: structure, bounds, and what a reader sees of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client.compose import load, render
from client.compose.document import CHARACTERS, DEPTH, FILE_BYTES, NODES, parse
from client.compose.report import Report
from client.compose.tree import Fields, Kind, Node, Scalar, Source
from common.errors import Invalid
from tests.compose_files import Workspace

SOURCE = Source("compose.yaml", Path())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def read(text: str) -> Node | None:
    report = Report()
    node = parse(text, SOURCE, report)
    report.refuse_if_faulty()
    return node


def refusal(text: str) -> str:
    with pytest.raises(Invalid) as caught:
        read(text)
    return str(caught.value)


def scalar(text: str) -> Scalar:
    node = read(f"key: {text}")
    assert isinstance(node, Fields)
    value = node.entries["key"].value
    assert isinstance(value, Scalar)
    return value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("yes", Kind.STRING),
        ("on", Kind.STRING),
        ("no", Kind.STRING),
        ("1_000", Kind.STRING),
        ("22:30", Kind.STRING),
        ("0o17", Kind.INTEGER),
        ("12", Kind.INTEGER),
        ("1.10", Kind.FLOAT),
        (".inf", Kind.FLOAT),
        (".NaN", Kind.FLOAT),
        ("True", Kind.BOOLEAN),
        ("~", Kind.NULL),
        ('"12"', Kind.STRING),
        ("!!str 12", Kind.STRING),
        ('!!int "12"', Kind.INTEGER),
    ],
)
def test_scalars_have_the_kinds_of_yaml_1_2(text: str, kind: Kind) -> None:
    assert scalar(text).kind is kind


def test_a_number_keeps_the_text_it_was_written_with() -> None:
    assert scalar("1.10").text == "1.10"


def test_json_escapes_of_one_character_in_two_halves_are_joined() -> None:
    assert scalar(r'"\ud83d\ude00"').text == "\U0001f600"
    assert scalar(r'"\ud83d"').text == "\ud83d"


def test_nodes_know_their_lines() -> None:
    node = read("a: 1\nb:\n  c: 2\n")
    assert isinstance(node, Fields)
    inner = node.entries["b"].value
    assert isinstance(inner, Fields)
    assert (node.entries["b"].mark.line, inner.entries["c"].mark.line) == (2, 3)


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    text = "services:\n  web: {image: a}\n  api: {image: b}\n  web: {image: c}\n"
    assert refusal(text) == "compose.yaml:4: services.web: is given twice: first in line 2, again in line 4"


def test_merge_keys_give_way_to_what_is_written_beside_them_and_to_earlier_ones() -> None:
    node = read("x: &x {a: 1, b: 1, c: 1}\ny: &y {b: 2, c: 2, d: 2}\nz: {<<: [*x, *y], c: 3}\n")
    assert isinstance(node, Fields)
    merged = node.entries["z"].value
    assert isinstance(merged, Fields)
    texts = {key: entry.value.text for key, entry in merged.entries.items() if isinstance(entry.value, Scalar)}
    assert texts == {"a": "1", "b": "1", "c": "3", "d": "2"}


def test_a_quoted_merge_key_is_an_ordinary_key() -> None:
    node = read('"<<": 1')
    assert isinstance(node, Fields)
    assert list(node.entries) == ["<<"]


def test_two_merge_keys_are_a_duplicate() -> None:
    assert "is given twice" in refusal("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "compose.yaml:1: is not YAML"),
        ("a:\n\tb: 1", "compose.yaml:2: is not YAML"),
        ("a: *b", "compose.yaml:1: *b refers to no anchor"),
        ("a: &a [*a]", "compose.yaml:1: *a stands inside the value it refers to"),
        ("a: 1\n---\nb: 2\n", "compose.yaml:2: a second document begins here"),
        ("%YAML 1.1\n---\na: 1\n", "compose.yaml:2: only YAML 1.2 is read"),
        ("a: 1\nb: \x07", "compose.yaml:2: character U+0007 is not allowed in YAML"),
        ('a: 1\nb: "\\UFFFFFFFF"', "compose.yaml:2: is not YAML"),
        ("a: !!python/object:os.system x", "compose.yaml:1: a: tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !!int x", "compose.yaml:1: a: 'x' is tagged as integer"),
        ("a: !secret {b: c}", "compose.yaml:1: a: tag '!secret' does not fit here"),
        ("? [a, b]\n: 1", "compose.yaml:1: a key must be a name; a list is given"),
        ("a: {~: 1}", "compose.yaml:1: a: a key must be a name; nothing is given"),
        ("a: {<<: 3}", "compose.yaml:1: a: << merges a mapping or a list of mappings; the integer '3' is given"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, expected: str) -> None:
    assert refusal(text).startswith(expected)


@pytest.mark.parametrize("text", ["[" * 200_000, "[\n" * 200_000, "- " * 5_000, "? " * 1_000, "{a: " * 10_000])
def test_nesting_is_bounded(text: str) -> None:
    assert f"nesting is deeper than {DEPTH} levels" in refusal(text)


def test_nesting_up_to_the_bound_is_read() -> None:
    assert read("[" * DEPTH + "]" * DEPTH) is not None


def test_aliases_expand_to_a_bounded_number_of_values() -> None:
    laughs = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert f"at most {NODES} values" in refusal("\n".join(laughs))


def test_aliases_expand_to_a_bounded_number_of_characters() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * (CHARACTERS // 100_000 + 1))}]"
    assert f"{CHARACTERS} characters" in refusal(text)


def test_merge_keys_count_as_what_they_expand_to() -> None:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}], k{n}: v}}" for n in range(1, 40)]
    assert f"at most {NODES} values" in refusal("\n".join(lines))


def test_files_are_bounded_readable_and_utf_8(workspace: Workspace) -> None:
    large = workspace.write("large.yaml", "#" * (FILE_BYTES + 1))
    latin = workspace.directory / "latin.yaml"
    latin.write_bytes(b"services:\n  web: {image: caf\xe9}\n")
    pipe = workspace.directory / "pipe.yaml"
    os.mkfifo(pipe)
    missing = workspace.directory / "missing.yaml"
    empty = workspace.write("empty.yaml", "# nothing\n")

    with pytest.raises(Invalid) as caught:
        load([large, latin, pipe, missing, workspace.directory, empty], project_name=None, environment={})

    expected = [
        f"{large}: is larger than {FILE_BYTES} bytes, the most that is read",
        f"{latin}:2: byte 0xe9 is not UTF-8: save the file as UTF-8",
        f"{pipe}: is not a file",
        f"{missing}: cannot be read: No such file or directory",
        f"{workspace.directory}: is not a file",
        f"{empty}: is empty: a project with services is expected",
    ]
    assert render(caught.value.faults).splitlines() == expected


def test_a_byte_order_mark_is_no_part_of_the_file(workspace: Workspace) -> None:
    assert workspace.spec("\ufeffservices: {web: {image: shop:1.4}}").name == "web"


def test_everything_wrong_is_said_at_once_in_the_order_of_the_file(workspace: Workspace) -> None:
    faults = workspace.faults(
        """
        services:
          web:
            image: "shop:1.4:3"
            imagee: shop
            deploy:
              replicas: many
          web: {}
        """
    )
    assert [fault.split(" ")[0] + " " + fault.split(" ")[1] for fault in faults] == [
        "compose.yaml:3: services.web.image:",
        "compose.yaml:4: services.web.imagee:",
        "compose.yaml:6: services.web.deploy.replicas:",
        "compose.yaml:7: services.web:",
    ]
    assert faults[2] == (
        "compose.yaml:6: services.web.deploy.replicas: "
        "the string 'many' is given; a whole number from 0 to 100000 is expected"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "compose.yaml:1: a list is given; a mapping is expected"),
        ("~", "compose.yaml:1: nothing is given; a mapping is expected"),
        ("name: shop", "compose.yaml:1: services is missing: a project has at least one service"),
        ("services: {}", "compose.yaml:1: services: is empty: a project has at least one service"),
        ("services: [web]", "compose.yaml:1: services: a list is given; a mapping is expected"),
        ("services:\n  web:\n", "compose.yaml:2: services.web: nothing is given; a mapping is expected"),
    ],
)
def test_a_project_is_a_mapping_with_services(workspace: Workspace, text: str, expected: str) -> None:
    assert workspace.faults(text)[0] == expected


def test_a_file_that_cannot_be_read_does_not_hide_the_faults_of_another(workspace: Workspace) -> None:
    faults = workspace.faults("services: {web: {image: a}, web: {image: b}}", "a: [")
    assert [fault.partition(":")[0] for fault in faults] == ["compose.yaml", "over1.yaml"]


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(Invalid, match="no Compose file"):
        load([], project_name=None, environment={})
