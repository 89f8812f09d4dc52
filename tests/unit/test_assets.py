"""Configs and secrets in the cluster: handed in, rotated, removed, forgotten, and never told."""

from __future__ import annotations

import random

import msgspec
import pytest

from common.errors import Conflict, Invalid, NotFound
from common.model.api import ApplyRequest
from common.model.asset import AssetKind, AssetMount
from common.model.asset_calls import ListAssets, PutAsset, PutHow, ReadConfig, RemoveAsset
from common.model.job import DesiredState, JobMode, JobSpec
from common.model.session import AssetContent, AssetRequest
from common.settings import LIMITS
from controller.core import assets
from controller.core.apply import apply_specs
from controller.core.assets import GRACE_S, Putting
from controller.core.check import Records, findings
from controller.dispatcher.assets import WAITING_LIMIT, AssetGiver
from controller.security.sealing import ClusterKey, KeyRing
from controller.security.vault import Vault
from controller.state import Group, State, Write
from controller.store.keys import encode
from tests.builders import job_spec, task

VAULT = Vault(KeyRing([ClusterKey(secret=b"k" * 32)]))
NOW_S = 1_000_000.0
CONFIG, SECRET = AssetKind.CONFIG, AssetKind.SECRET
VALUE = b"hunter2-the-value"


class Cluster:
    """A state, and what is asked of it."""

    def __init__(self) -> None:
        self.state = State()
        self.now_s = NOW_S
        self.rng = random.Random(1)

    def take(self, groups: tuple[Group, ...]) -> None:
        for group in groups:
            for change in group:
                self.state.apply(change)

    def put(
        self, content: bytes, how: PutHow = PutHow.UPLOAD, kind: AssetKind = CONFIG, name: str = "app"
    ) -> tuple[str, Putting]:
        request = PutAsset(kind=kind, namespace="shop", asset=name, content=content, how=how)
        asset = assets.named(self.state, request, self.now_s)
        if kind is CONFIG:
            version = assets.plain_config(asset, content, self.now_s)
        else:
            asset, version = VAULT.sealed(asset, content, self.now_s)
        putting = assets.put(self.state, request, asset, version, self.now_s, self.rng)
        self.take(putting.groups)
        return version.digest, putting

    def up(self, *digests: str, kind: AssetKind = CONFIG, name: str = "web", **fields: object) -> None:
        request = ApplyRequest(namespace="shop", specs=(using(*digests, kind=kind, name=name, **fields),))
        assets.check_known(self.state, request)
        self.take(apply_specs(self.state, request, self.now_s, self.rng).groups)

    def digests(self, kind: AssetKind = CONFIG) -> set[str]:
        return {one.digest for view in assets.views(self.state, ListAssets(kind=kind)) for one in view.versions}

    def forget(self) -> float:
        found = assets.forgettable(self.state, self.now_s)
        self.take(found.groups)
        assert findings(Records.of(self.state.records())) == ()
        return found.next_s


def using(*digests: str, kind: AssetKind = CONFIG, name: str = "web", **fields: object) -> JobSpec:
    mounts = tuple(
        AssetMount(kind=kind, name="app", digest=digest, target=f"/app{place}", mode=0o444)
        for place, digest in enumerate(digests)
    )
    spec = job_spec(f"shop/{name}")
    container = msgspec.structs.replace(spec.task.container, assets=mounts)
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, container=container), **fields)


def test_equal_contents_are_one_version_and_nothing_is_written_twice() -> None:
    for kind in (CONFIG, SECRET):
        cluster = Cluster()
        first, stored = cluster.put(b"red", kind=kind)
        assert stored.stored
        again, putting = cluster.put(b"red", kind=kind)
        assert (again, putting.stored, [len(group) for group in putting.groups]) == (first, False, [0])
        other, _ = cluster.put(b"blue", kind=kind)
        assert other != first
        assert cluster.digests(kind) == {first, other}


def test_a_secret_lies_in_the_store_sealed_and_opens_again() -> None:
    cluster = Cluster()
    digest, _ = cluster.put(VALUE, kind=SECRET)
    asset = cluster.state.assets.get(SECRET, "shop", "app")
    assert asset is not None
    version = cluster.state.assets.version(asset.key, digest)
    assert version is not None
    assert VAULT.content(asset, version) == VALUE
    for record in cluster.state.records():
        assert VALUE not in encode(record)
    moved = msgspec.structs.replace(version, name="other")
    with pytest.raises(Invalid, match="copied from another place"):
        VAULT.content(asset, moved)


def test_digests_of_a_secret_cannot_be_guessed_at() -> None:
    """Two clusters, and two secrets of one cluster, have different digests of the same content."""
    one, other = Cluster(), Cluster()
    assert len({one.put(VALUE, kind=SECRET)[0], other.put(VALUE, kind=SECRET)[0]}) == 2
    assert one.put(VALUE, kind=SECRET)[0] != one.put(VALUE, kind=SECRET, name="b")[0]


def test_a_new_cluster_key_rewraps_the_data_keys_only() -> None:
    cluster = Cluster()
    digest, _ = cluster.put(VALUE, kind=SECRET)
    asset = cluster.state.assets.get(SECRET, "shop", "app")
    assert asset is not None
    version = cluster.state.assets.version(asset.key, digest)
    assert version is not None
    new = ClusterKey(secret=b"n" * 32)
    both = Vault(KeyRing([new, ClusterKey(secret=b"k" * 32)]))
    moved = both.rewrapped(asset)
    assert moved is not None
    assert both.rewrapped(moved) is None
    only_new = Vault(KeyRing([new]))
    assert only_new.content(moved, version) == VALUE
    assert only_new.sealed(moved, VALUE, NOW_S)[1].digest == digest
    with pytest.raises(Invalid, match="is sealed under the cluster key"):
        only_new.content(asset, version)


def test_making_one_by_name_twice_is_a_conflict_but_repeating_it_is_not() -> None:
    cluster = Cluster()
    digest, _ = cluster.put(b"red", PutHow.CREATE)
    assert cluster.put(b"red", PutHow.CREATE)[0] == digest
    with pytest.raises(Conflict, match="config shop/app is there already: `podium config rotate app`"):
        cluster.put(b"blue", PutHow.CREATE)
    with pytest.raises(Invalid, match="was made by name: say external: true"):
        cluster.put(b"blue", PutHow.UPLOAD)
    with pytest.raises(NotFound, match="no config shop/other was made by name"):
        cluster.put(b"blue", PutHow.ROTATE, name="other")


def test_rotating_gives_every_service_that_runs_a_new_version() -> None:
    cluster = Cluster()
    old, _ = cluster.put(b"red", PutHow.CREATE)
    cluster.up(old)
    cluster.up(old, name="stopped")
    cluster.up(old, name="once", mode=JobMode.BATCH)
    cluster.up(name="other")
    stopped = cluster.state.job_named("shop", "stopped")
    assert stopped is not None
    cluster.state.apply(Write(msgspec.structs.replace(stopped, desired=DesiredState.STOP)))
    new, putting = cluster.put(b"blue", PutHow.ROTATE)
    assert [(change.job, change.version) for change in putting.changes] == [("shop/web", 2)]
    assert putting.warnings == ("not changed over, since they do not run: once, stopped",)
    web = cluster.state.job_named("shop", "web")
    assert web is not None
    assert [mount.digest for mount in cluster.state.spec_of(web).task.container.assets] == [new]
    assert putting.changes[0].text.endswith(f"digest: {old[:12]} -> {new[:12]}")
    assert cluster.put(b"blue", PutHow.ROTATE)[1].changes == ()


def test_a_plan_tells_digests_by_target() -> None:
    cluster = Cluster()
    old, _ = cluster.put(b"red")
    cluster.up(old)
    new, _ = cluster.put(b"blue")
    request = ApplyRequest(namespace="shop", specs=(using(new),))
    (change,) = apply_specs(cluster.state, request, cluster.now_s, cluster.rng).changes
    assert change.text == f"task.container.assets[/app0].digest: {old[:12]} -> {new[:12]}"


def test_jobs_name_only_what_is_there() -> None:
    cluster = Cluster()
    with pytest.raises(
        Invalid, match=r"services.web.configs: version 0{12} of config shop/app is not there: hand it in"
    ):
        cluster.up("0" * 64)


def test_what_no_kept_version_of_a_job_uses_is_forgotten_after_a_while() -> None:
    cluster = Cluster()
    used, _ = cluster.put(b"red")
    cluster.up(used)
    unused, _ = cluster.put(b"blue")
    assert cluster.forget() == NOW_S + GRACE_S
    assert cluster.digests() == {used, unused}
    cluster.now_s += GRACE_S
    cluster.forget()
    assert cluster.digests() == {used}


def test_what_is_handed_in_again_stays_for_as_long_again() -> None:
    cluster = Cluster()
    cluster.put(b"blue")
    cluster.now_s += GRACE_S - 1
    cluster.put(b"blue")
    cluster.now_s += 2
    cluster.forget()
    assert cluster.digests()


def test_removal_spares_what_a_job_can_go_back_to() -> None:
    cluster = Cluster()
    old, _ = cluster.put(b"red", PutHow.CREATE)
    cluster.up(old)
    remove = RemoveAsset(kind=CONFIG, namespace="shop", asset="app")
    with pytest.raises(Conflict, match="config shop/app is used by shop/web"):
        assets.remove(cluster.state, remove)
    cluster.put(b"blue", PutHow.ROTATE)
    cluster.up()
    group, left = assets.remove(cluster.state, remove)
    cluster.take((group,))
    assert left == 2  # both are of versions that web could go back to
    cluster.now_s += GRACE_S
    cluster.forget()
    assert old in cluster.digests()
    with pytest.raises(Conflict, match="came with a Compose file"):
        assets.remove(cluster.state, remove)


def test_a_namespace_has_room_for_so_much() -> None:
    cluster = Cluster()
    for place in range(LIMITS.asset_bytes_per_namespace // LIMITS.config_bytes):
        cluster.put(bytes(LIMITS.config_bytes - 8) + place.to_bytes(8, "big"), name=f"c{place}")
    with pytest.raises(Conflict, match="more would be over 33554432"):
        cluster.put(bytes(LIMITS.config_bytes), name="more")


def test_a_config_can_be_read_by_the_beginning_of_its_digest() -> None:
    cluster = Cluster()
    digest, _ = cluster.put(b"red")
    read = assets.config_content(cluster.state, ReadConfig(namespace="shop", asset="app", digest=digest[:6]))
    assert read.content == b"red"
    with pytest.raises(NotFound, match="has no version 'zz'; it has"):
        assets.config_content(cluster.state, ReadConfig(namespace="shop", asset="app", digest="zz"))
    with pytest.raises(NotFound, match="no config shop/gone; the namespace has app"):
        assets.config_content(cluster.state, ReadConfig(namespace="shop", asset="gone"))


def test_a_node_is_given_only_what_its_own_tasks_use() -> None:
    cluster = Cluster()
    digest, _ = cluster.put(VALUE, kind=SECRET)
    other, _ = cluster.put(b"other", kind=SECRET)
    cluster.up(digest, kind=SECRET)
    web = cluster.state.job_named("shop", "web")
    assert web is not None
    cluster.state.apply(Write(task(web, node_id="n1")))
    giver = AssetGiver(cluster.state, VAULT, {}.get)

    def ask(node: str, task_id: str = "web-1", asked: str = digest) -> AssetContent:
        return giver.answer(node, AssetRequest(task_id=task_id, kind=SECRET, name="app", digest=asked))

    assert ask("n1").content == VALUE
    assert "hunter2" not in repr(ask("n1"))
    for refused in (ask("n2"), ask("n1", "web-2"), ask("n1", asked=other)):
        assert (refused.content, refused.refusal) == (b"", "no task of this node uses it")
    asked = AssetRequest(task_id="web-1", kind=SECRET, name="app", digest=digest)
    assert giver.answer("n1", asked, WAITING_LIMIT).content == VALUE
    assert giver.answer("n1", asked, WAITING_LIMIT + 1).later
    keyless = AssetGiver(cluster.state, None, {}.get).answer(
        "n1", AssetRequest(task_id="web-1", kind=SECRET, name="app", digest=digest)
    )
    assert keyless.later
    assert keyless.content == b""


def test_no_content_is_in_what_a_traceback_shows() -> None:
    assert "hunter2" not in repr(PutAsset(kind=SECRET, namespace="shop", asset="a", content=VALUE))
