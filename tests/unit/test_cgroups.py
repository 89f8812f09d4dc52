"""Where control groups are found on systems of version 1, of version 2 and of both."""

from __future__ import annotations

from pathlib import Path

from agent.runtime.cgroups import hierarchies, memory_peak_bytes


def test_version_1_has_a_place_for_each_controller(tmp_path: Path) -> None:
    (tmp_path / "memory" / "agents" / "a").mkdir(parents=True)
    mounts = (
        f"cgroup {tmp_path}/memory cgroup rw,memory 0 0\n"
        f"cgroup {tmp_path}/cpu cgroup rw,cpu,cpuacct 0 0\n"
        "proc /proc proc rw 0 0\n"
    )
    found = hierarchies(mounts, "4:memory:/agents/a\n2:cpu,cpuacct:/agents/a\n0::/\n")
    assert (found["memory"].version, found["memory"].own) == (1, tmp_path / "memory" / "agents" / "a")
    # This path is the host's and cannot be seen from here: the best is what is mounted.
    assert found["cpu"].own == tmp_path / "cpu"


def test_version_2_has_one_place_for_all(tmp_path: Path) -> None:
    (tmp_path / "system.slice").mkdir()
    found = hierarchies(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n", "0::/system.slice\n")
    assert {each.own for each in found.values()} == {tmp_path / "system.slice"}
    assert {each.version for each in found.values()} == {2}


def test_where_both_are_mounted_version_1_has_the_controllers(tmp_path: Path) -> None:
    mounts = f"cgroup {tmp_path}/memory cgroup rw,memory 0 0\ncgroup2 {tmp_path}/unified cgroup2 rw 0 0\n"
    for text in (mounts, "\n".join(reversed(mounts.splitlines()))):
        assert hierarchies(text, "4:memory:/\n0::/\n")["memory"].version == 1


def test_a_system_without_control_groups_has_none() -> None:
    assert hierarchies("proc /proc proc rw 0 0\n", "0::/\n") == {}


def test_the_peak_of_a_group_that_is_gone_is_not_known(tmp_path: Path) -> None:
    assert memory_peak_bytes(tmp_path / "gone") == 0
    (tmp_path / "memory.peak").write_text("4096\n")
    assert memory_peak_bytes(tmp_path) == 4096
