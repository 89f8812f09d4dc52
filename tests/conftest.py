"""Fixtures that several test folders share (each is defined beside what it starts), and who runs beside whom."""

from __future__ import annotations

import pytest

import common  # noqa: F401  first: it settles what gRPC reads when a test imports that
from tests.etcd import etcd_prefix, etcd_server, own_etcd

__all__ = ["etcd_prefix", "etcd_server", "own_etcd"]

REAL = ("cluster", "integration", "contract")
"""Folders whose tests start real engines, stores and clusters. They wait most of the time, and share the machine."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (`-n`), tests on real parts stay in one, one after another; the others run beside them."""
    for item in items:
        if item.path.parent.name in REAL:
            item.add_marker(pytest.mark.xdist_group("real"))
