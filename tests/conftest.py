"""Fixtures that several test folders share; each is defined beside what it starts."""

from __future__ import annotations

import os

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

import common  # noqa: F401  first: it settles what gRPC reads when a test imports that
from tests.cluster.beside import outcomes, outcomes_by_group
from tests.etcd import etcd_prefix, etcd_server, own_etcd
from tests.open_directory import open_directory

os.environ.setdefault("PODIUM_PROXY", "relay")  # a test runs the same where HAProxy is installed; its own ask for it

__all__ = ["etcd_prefix", "etcd_server", "open_directory", "outcomes", "outcomes_by_group", "own_etcd"]


class Sharing(LoadScopeScheduling):
    """Where several processes share the suite, one has all clusters and the others whole modules of the rest: two
    clusters at once would starve each other, and a module's tests share what it makes once.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::", 1)[0]
        return "clusters" if module.startswith("tests/cluster/") else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Sharing(config, log)
