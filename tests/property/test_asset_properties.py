"""Configs and secrets under any sequence of uploads, deployments, rotations, rollbacks and passing time: what a kept
version of a job names is always there, and in the end nothing else is."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import PodiumError
from common.model.asset import AssetKind
from common.model.asset_calls import PutHow, RemoveAsset
from controller.asset_index import AssetIndex, uses_of
from controller.core import assets
from controller.core.assets import GRACE_S
from controller.state import Erase, State
from tests.unit.test_assets import Cluster

KINDS = st.sampled_from(AssetKind)
NAMES = st.sampled_from(["app", "b"])
CONTENTS = st.sampled_from([b"", b"red", b"blue"])
JOBS = st.sampled_from(["web", "api"])


class AssetsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.fresh: dict[tuple[AssetKind, bytes], str] = {}
        """Digests handed in a moment ago under the name that jobs use."""

    @rule(kind=KINDS, name=NAMES, content=CONTENTS, how=st.sampled_from(PutHow))
    def put(self, kind: AssetKind, name: str, content: bytes, how: PutHow) -> None:
        try:
            digest, putting = self.cluster.put(content, how, kind, name)
        except PodiumError:
            return
        again, repeated = self.cluster.put(content, how, kind, name)
        assert again == digest
        assert (repeated.stored, repeated.changes) == (False, ())
        assert not putting.changes or how is PutHow.ROTATE
        if name == "app":
            self.fresh[kind, content] = digest

    @precondition(lambda self: self.fresh)
    @rule(job=JOBS, data=st.data())
    def deploy(self, job: str, data: st.DataObject) -> None:
        (kind, _), digest = data.draw(st.sampled_from(sorted(self.fresh.items(), key=str)))
        self.cluster.up(digest, kind=kind, name=job)

    @rule(job=JOBS)
    def deploy_without(self, job: str) -> None:
        self.cluster.up(name=job)

    @rule(job=JOBS)
    def forget_old_versions(self, job: str) -> None:
        known = self.cluster.state.job_named("shop", job)
        for version in list(self.cluster.state.versions_of(known.id).values()) if known else ():
            if version.version != known.version:
                self.cluster.state.apply(Erase(version))

    @rule(kind=KINDS, name=NAMES)
    def remove(self, kind: AssetKind, name: str) -> None:
        try:
            group, _ = assets.remove(self.cluster.state, RemoveAsset(kind=kind, namespace="shop", asset=name))
        except PodiumError:
            return
        self.cluster.take((group,))
        if name == "app":
            self.fresh = {key: digest for key, digest in self.fresh.items() if key[0] is not kind}

    @rule(hours=st.sampled_from([0.0, 0.4, 1.0]))
    def time_passes(self, hours: float) -> None:
        self.cluster.now_s += hours * GRACE_S
        if hours:
            self.fresh.clear()
        next_s = self.cluster.forget()
        assert next_s > self.cluster.now_s

    @invariant()
    def whatever_a_version_of_a_job_names_is_there(self) -> None:
        state = self.cluster.state
        for job in state.jobs.values():
            for version in state.versions_of(job.id).values():
                for key, digest in uses_of(version):
                    assert state.assets.version(key, digest) is not None

    @invariant()
    def the_index_is_what_the_records_make_of_it(self) -> None:
        rebuilt = State.of(self.cluster.state.records())
        assert vars(rebuilt.assets) == vars(self.cluster.state.assets)
        assert isinstance(rebuilt.assets, AssetIndex)

    def teardown(self) -> None:
        """When time has passed, what is left is used or the current one of an asset made by name, and never again
        anything to do."""
        self.cluster.now_s += 2 * GRACE_S
        self.cluster.forget()
        state = self.cluster.state
        for key, asset in state.assets.named.items():
            for digest in state.assets.versions_of(key):
                assert state.assets.uses(key, digest) or (asset.kept and asset.current == digest)
            assert state.assets.versions_of(key)
        assert assets.forgettable(state, self.cluster.now_s).groups == ()
        assert msgspec.json.encode(sorted(state.assets.named))


TestAssets = AssetsMachine.TestCase
TestAssets.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
