"""Whatever a Compose file holds, it is loaded or refused with places; and what is loaded is what was written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.compose import Project, load
from client.compose.dotenv import read_variables
from client.compose.interpolate import interpolated
from client.compose.keys import SECTIONS
from client.compose.report import Report
from common.errors import Invalid
from common.model.job import PublishMode
from common.units import parse_bytes, parse_cpu_millis, parse_devices, parse_duration_s
from common.validation import faults

ENVIRONMENT = {"SET": "value", "NUMBER": "3", "EMPTY": ""}

settings.register_profile("compose", deadline=None, suppress_health_check=[HealthCheck.too_slow])
TRIES = settings(settings.get_profile("compose"), max_examples=150)


def load_bytes(*contents: bytes, name: str | None = "test") -> Project | tuple[str, ...]:
    """The project, or what is wrong with it: nothing else may come out."""
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{place}.yaml" for place in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        try:
            return load(files, project_name=name, environment=ENVIRONMENT)
        except Invalid as error:
            faults_met = tuple(str(fault).replace(directory, "") for fault in error.faults)
    assert faults_met
    return faults_met


def load_value(*values: object) -> Project | tuple[str, ...]:
    """JSON is YAML."""
    return load_bytes(*(json.dumps(value).encode() for value in values))


def load_services(services: Mapping[str, object]) -> Project:
    project = load_value({"services": services})
    assert isinstance(project, Project), project
    return project


# --- anything at all

VALID = b"""
name: shop
x-base: &base {image: 'shop:${TAG:-1}', restart: always}
services:
  migrate: {<<: *base, restart: on-failure, command: "./migrate --all", deploy: {mode: replicated-job}}
  web:
    <<: *base
    ports: ["8080:80", {target: 90, published: 9090, mode: host}]
    environment: [A=1, B]
    depends_on: {migrate: {condition: service_completed_successfully}}
    healthcheck: {test: ["CMD", "/up"], interval: 2s}
    deploy:
      replicas: 3
      resources: {reservations: {cpus: "0.5", memory: 256M}}
      placement: {constraints: ["node.labels.zone == eu"], preferences: [{spread: node.labels.rack}]}
  api: {extends: web, ports: !override ["8081:80"], profiles: [a]}
"""
SNIPPETS = (
    *(
        b": ",
        b"- ",
        b"\n",
        b"\n  ",
        b"\n    ",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"&a ",
        b"*a ",
        b"<<: ",
        b"!reset ",
        b"!override ",
    ),
    *(
        b"'",
        b'"',
        b"|\n",
        b">-\n",
        b"? ",
        b"# ",
        b"--- ",
        b"...\n",
        b"%YAML 1.2\n",
        b"!!int ",
        b"!!binary ",
        b"\\u",
        b"\\U",
        b"\x85",
    ),
    *(
        b"${",
        b"${A:-",
        b"$",
        b"}",
        b"\t",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"~",
        b"null",
        b"9" * 30,
        b"1e999",
        b".nan",
        b"0x1",
    ),
    *(
        b"services: ",
        b"web: ",
        b"image: ",
        b"ports: ",
        b"deploy: ",
        b"extends: ",
        b"depends_on: ",
        b"environment: ",
        b"env_file: /",
    ),
)


@TRIES
@given(st.binary(max_size=200))
@example(b'a: "\\UFFFFFFFF"')
@example(b"a: 'b\x00'")
@example(b"\xfe\xff")
def test_any_bytes_load_or_are_refused(content: bytes) -> None:
    load_bytes(content)


@TRIES
@given(st.lists(st.sampled_from(SNIPPETS), max_size=40).map(b"".join))
def test_any_yaml_like_text_loads_or_is_refused(content: bytes) -> None:
    load_bytes(content)


@settings(TRIES, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), st.sampled_from((b"", *SNIPPETS))), max_size=4)
)
def test_any_damage_to_a_good_file_loads_or_is_refused(cuts: Sequence[tuple[int, int, bytes]]) -> None:
    content = VALID
    for place, length, instead in cuts:
        content = content[:place] + instead + content[place + length :]
    load_bytes(content)


KEYS = sorted({key for section in SECTIONS.values() for key in section.known} | {"web", "api", "x-a", "nonsense", "<<"})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(
        ("8080:80", "80", "1s", "64m", "0.5", "shop:1", "web", "api", "A=1", "$SET", "${NUMBER}", "CMD", "on-failure:3")
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)
SERVICES = st.dictionaries(
    st.sampled_from(("web", "api", "db", "Bad_Name")),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6) | VALUES,
    max_size=3,
)
PROJECTS = st.fixed_dictionaries({"services": SERVICES}) | VALUES


@TRIES
@given(st.lists(PROJECTS, min_size=1, max_size=3))
def test_any_values_load_or_are_refused_and_always_alike(projects: Sequence[object]) -> None:
    first = load_value(*projects)
    assert first == load_value(*projects)
    if isinstance(first, Project):
        assert all(faults(spec) == () for spec in first.specs)


# --- what is right is loaded as it is written

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0$", exclude_categories=("Cs", "Cc")), max_size=12)
VARIABLES = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True).filter(lambda name: not name.startswith("PODIUM")),
    WORDS,
    max_size=5,
)
GOOD_DEVICES = st.one_of(
    st.integers(1, 128).map(lambda count: {"count": count}),
    st.integers(1, 1000).map(lambda millis: {"share": f"{millis / 1000:.3f}"}),
)
GOOD_SERVICES = st.fixed_dictionaries(
    {"image": st.from_regex(r"[a-z]{1,10}(:[a-z0-9]{1,8})?", fullmatch=True)},
    optional={
        "command": st.lists(WORDS.filter(bool), min_size=1, max_size=4),
        "environment": VARIABLES,
        "labels": VARIABLES,
        "scale": st.integers(0, 1000),
        "init": st.booleans(),
        "stop_grace_period": st.integers(0, 3600).map(lambda seconds: f"{seconds}s"),
        "stop_signal": st.sampled_from(("SIGTERM", "SIGINT", "USR1", "9")),
        "mem_limit": st.integers(6, 4096).map(lambda size: f"{size}m"),
        "cpus": st.integers(0, 64_000).map(lambda millis: f"{millis / 1000:.3f}"),
        "expose": st.lists(st.integers(1, 65535), max_size=3),
        "healthcheck": st.fixed_dictionaries(
            {"test": st.lists(WORDS.filter(bool), min_size=1, max_size=3).map(lambda words: ["CMD", *words])}
        ),
        "deploy": st.fixed_dictionaries(
            {}, optional={"mode": st.sampled_from(("replicated", "replicated-job")), "labels": VARIABLES}
        ),
    },
)


@TRIES
@given(st.dictionaries(NAMES, GOOD_SERVICES, min_size=1, max_size=4))
def test_good_services_have_no_faults_and_keep_their_values(services: dict[str, dict[str, Any]]) -> None:
    project = load_services(services)
    assert [spec.name for spec in project.specs] == list(services)
    for spec in project.specs:
        written = services[spec.name]
        container = spec.task.container
        assert faults(spec) == ()
        assert container.image == written["image"]
        assert container.command == tuple(written.get("command", ()))
        assert container.environment == written.get("environment", {})
        assert container.labels == written.get("labels", {})
        assert spec.replicas == written.get("scale", 1)
        assert spec.task.limits.memory_bytes == int(written.get("mem_limit", "0m")[:-1]) * 1024 * 1024
        assert spec.task.limits.cpu_millis == round(float(written.get("cpus", "0")) * 1000)


@TRIES
@given(st.dictionaries(NAMES.filter(lambda name: not name.endswith("-share")), GOOD_DEVICES, max_size=3))
def test_both_forms_of_a_device_are_the_same(devices: dict[str, dict[str, Any]]) -> None:
    short = {kind: next(iter(form.values())) for kind, form in devices.items()}
    project = load_services(
        {name: {"image": "a", "x-podium": {"devices": form}} for name, form in (("s", short), ("l", devices))}
    )
    first, second = project.specs
    assert first.task.devices == second.task.devices


@TRIES
@given(
    st.lists(
        st.tuples(
            st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(("tcp", "udp")), st.sampled_from(PublishMode)
        ),
        max_size=8,
        unique_by=lambda port: (port[0], port[2]),
    )
)
def test_both_forms_of_a_port_are_the_same(ports: Sequence[tuple[int, int, str, PublishMode]]) -> None:
    short = [f"{published}:{target}/{protocol}" for published, target, protocol, _ in ports]
    long = [
        {"target": target, "published": published, "protocol": protocol} for published, target, protocol, _ in ports
    ]
    written = load_services({"a": {"image": "a", "ports": short}}), load_services({"a": {"image": "a", "ports": long}})
    assert written[0].specs == written[1].specs
    modes = [{**port, "mode": mode.value} for port, (*_, mode) in zip(long, ports, strict=True)]
    (spec,) = load_services({"a": {"image": "a", "ports": modes}}).specs
    assert [port.mode for port in spec.task.ports] == [mode for *_, mode in ports]


# --- merging


def merged(*services: Mapping[str, object]) -> Project:
    values = [{"services": {"web": service}} for service in services]
    project = load_value(*values)
    assert isinstance(project, Project), project
    return project


@TRIES
@given(GOOD_SERVICES, GOOD_SERVICES)
def test_files_merge_as_documented(base: dict[str, Any], over: dict[str, Any]) -> None:
    (spec,) = merged(base, over).specs
    last = {**base, **over}
    container = spec.task.container
    assert container.image == over["image"]
    assert container.environment == {**base.get("environment", {}), **over.get("environment", {})}
    assert container.labels == {**base.get("labels", {}), **over.get("labels", {})}
    assert container.command == tuple(over.get("command") or base.get("command", ()))
    assert spec.replicas == last.get("scale", 1)
    exposed = [*base.get("expose", ()), *over.get("expose", ())]
    assert [port.container_port for port in spec.task.ports] == list(dict.fromkeys(exposed))


@TRIES
@given(GOOD_SERVICES, GOOD_SERVICES, GOOD_SERVICES)
def test_merging_is_idempotent_and_the_same_as_extending(
    one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]
) -> None:
    assert merged(one, one) == merged(one)
    assert merged(one, {}) == merged(one)
    extended = load_services({"a": one, "b": {**two, "extends": "a"}, "web": {**three, "extends": "b"}})
    assert extended.specs[-1] == merged(one, two, three).specs[0]


# --- variables and amounts


@TRIES
@given(st.text())
def test_dollar_signs_can_be_escaped(text: str) -> None:
    assert interpolated(text.replace("$", "$$"), {}, _must_not_miss) == text


@TRIES
@given(st.text(st.sampled_from("$${}:?+-AB ab"), max_size=30))
def test_any_use_of_variables_is_replaced_or_refused(text: str) -> None:
    missing: list[str] = []
    try:
        result = interpolated(text, {"A": "a", "B": ""}, missing.append)
    except Invalid:
        return
    assert "$" in text or result == text


@TRIES
@given(st.text(st.sampled_from("AB=:'\"#$\\{} \n\r\texport-"), max_size=60) | st.text(max_size=40))
def test_any_env_file_is_read_or_has_faults_with_lines(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.env"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        report = Report()
        try:
            read_variables(path, "x.env", {}, report)
        except Invalid:
            return
        lines = text.count("\n") + 1
        assert all(1 <= fault.line <= lines for fault in report.faults)


@TRIES
@given(
    st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True), WORDS.filter(lambda word: "'" not in word))
)
def test_single_quotes_keep_what_is_between_them(variables: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.env"
        path.write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()), encoding="utf-8")
        assert read_variables(path, "x.env", {}, Report()) == variables


@pytest.mark.parametrize("parse", [parse_duration_s, parse_bytes, parse_cpu_millis])
@TRIES
@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{1,8}[a-zA-Z]{0,2}", fullmatch=True) | st.floats().map(str))
def test_any_amount_is_a_number_or_refused(parse: Any, text: str) -> None:
    try:
        amount = parse(text)
    except Invalid:
        return
    assert 0 <= amount < 1 << 70


@TRIES
@given(st.text(st.sampled_from("0123456789.-e"), max_size=9))
def test_any_number_of_devices_is_whole_or_a_share_of_one_or_refused(text: str) -> None:
    try:
        count, share_millis = parse_devices(text)
    except Invalid:
        return
    assert Decimal(text) == Decimal(count * share_millis) / 1000
    assert share_millis == 1000 if count > 1 else 0 < share_millis <= 1000


@TRIES
@given(st.integers(0, 100), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_up(hours: int, minutes: int, seconds: int, millis: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{millis}ms"
    assert parse_duration_s(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + millis / 1000)


def _must_not_miss(name: str) -> None:
    raise AssertionError(name)
