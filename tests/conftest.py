"""Fixtures that several test folders share; each is defined beside what it starts."""

from __future__ import annotations

import os

import pytest

import common  # noqa: F401  first: it settles what gRPC reads when a test imports that
from tests.cluster.beside import outcomes, outcomes_by_group
from tests.etcd import etcd_prefix, etcd_server, own_etcd
from tests.open_directory import open_directory

os.environ.setdefault("PODIUM_PROXY", "relay")  # a test runs the same where HAProxy is installed; its own ask for it

__all__ = ["etcd_prefix", "etcd_server", "open_directory", "outcomes", "outcomes_by_group", "own_etcd"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the suite, one has all clusters and the others whole modules of the rest: two
    clusters at once would starve each other, and a module's tests share what it makes once.
    """
    for item in items:
        if isinstance(item, pytest.Function):
            group = "clusters" if item.path.parent.name == "cluster" else item.module.__name__
            item.add_marker(pytest.mark.xdist_group(group))
