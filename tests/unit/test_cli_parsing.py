"""What people type, as values; what is refused, with what is allowed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import parsing
from common.errors import Invalid
from common.model.job import Port, Protocol

NOW_S = 1_900_000_000.0


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512b", 512), ("512M", 512 * 1024**2), ("4G", 4 * 1024**3), ("1.5GiB", 1536 * 1024**2), ("2kb", 2048)],
)
def test_sizes(text: str, size: int) -> None:
    assert parsing.size_bytes("memory", text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "nan", "inf", "1e9", "4X", "99999999T", "٤G", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid, match="memory: "):
        parsing.size_bytes("memory", text)


def test_what_is_read_together_is_refused_together() -> None:
    given = parsing.Together()
    assert given.read(lambda: parsing.size_bytes("memory", "4G"), 0) == 4 << 30
    given.check()
    assert given.read(lambda: parsing.size_bytes("memory", "lots"), 0) == 0
    assert given.read(lambda: parsing.cpu_millis("cpus", -1), 7) == 7
    with pytest.raises(Invalid) as refused:
        given.check()
    assert [fault.path for fault in refused.value.faults] == ["memory", "cpus"]


@pytest.mark.parametrize("cpus", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_what_is_no_number_of_cores(cpus: float) -> None:
    with pytest.raises(Invalid, match="cpus: "):
        parsing.cpu_millis("cpus", cpus)
    assert parsing.cpu_millis("cpus", 0.5) == 500


@pytest.mark.parametrize(
    ("text", "moment_s"),
    [
        ("90s", NOW_S - 90),
        ("1h30m", NOW_S - 5400),
        ("500ms", NOW_S - 0.5),
        ("2d", NOW_S - 172800),
        ("1899999999.5", NOW_S - 0.5),
        ("2030-03-17T17:46:40Z", NOW_S),
        ("2030-03-17T18:46:40+01:00", NOW_S),
        ("99999d", 0.0),
    ],
)
def test_moments(text: str, moment_s: float) -> None:
    assert parsing.moment_s("since", text, NOW_S) == moment_s


@pytest.mark.parametrize("text", ["", "soon", "10x", "-5m", "nan", "inf", "1m x", "0001-01-01", "1960-01-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(Invalid, match=r"since: .*give e"):
        parsing.moment_s("since", text, NOW_S)


def test_labels() -> None:
    assert parsing.labels("labels", "zone=eu, rack=1") == {"zone": "eu", "rack": "1"}
    assert parsing.labels("labels", "") == {}
    with pytest.raises(Invalid) as raised:
        parsing.labels("labels", "zone,=eu")
    assert len(raised.value.faults) == 2


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port(container_port=80, published_port=8080)),
        ("80", Port(container_port=80)),
        ("5353:53/udp", Port(container_port=53, published_port=5353, protocol=Protocol.UDP)),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert parsing.port("publish", text) == port


@pytest.mark.parametrize(
    "text", ["", "0", "0:80", "80:", ":80", "70000:80", "80:70000", "a:b", "1:2:3", "80/icmp", "9" * 5000]
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(Invalid, match="publish: "):
        parsing.port("publish", text)


def test_targets_name_no_job_twice_and_all_faults_are_told() -> None:
    with pytest.raises(Invalid) as raised:
        parsing.scale_targets(["web=1", "web=2", "api", "db=x", "db=" + "9" * 5000])
    assert len(raised.value.faults) == 4


@pytest.mark.parametrize("text", ["", "/", "/a", "a/", "a/b/c"])
def test_what_is_no_job(text: str) -> None:
    with pytest.raises(Invalid, match="job: "):
        parsing.job_name("default", text)


def test_jobs_within_and_across_namespaces() -> None:
    assert parsing.job_name("default", "web") == ("default", "web")
    assert parsing.job_name("default", "shop/web") == ("shop", "web")


@given(st.text(max_size=20))
def test_whatever_is_typed_is_parsed_or_refused(text: str) -> None:
    for parse in (
        lambda: parsing.size_bytes("x", text),
        lambda: parsing.moment_s("x", text, NOW_S),
        lambda: parsing.labels("x", text),
        lambda: parsing.port("x", text),
        lambda: parsing.scale_targets([text]),
        lambda: parsing.job_name("x", text),
    ):
        with suppress(Invalid):
            parse()
