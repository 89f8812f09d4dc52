"""`podium config` and `secret`, and what `up` and `plan` do about those of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.transport import APPLY, LIST_ASSETS, PLAN, PUT_ASSET, READ_CONFIG, REMOVE_ASSET
from common.errors import Conflict
from common.model.api import Changes, JobChange, Plan
from common.model.asset import AssetKind
from common.model.asset_calls import (
    AssetList,
    AssetPut,
    AssetRemoved,
    AssetVersionView,
    AssetView,
    ConfigContent,
    PutAsset,
    PutHow,
)
from tests.cli_rig import NOW_S, Podium

DIGEST = "0123456789abcdef" * 4
VALUE = "hunter2-the-value"


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "db.txt").write_text(VALUE)
    path = tmp_path / "compose.yaml"
    path.write_text(
        "name: shop\n"
        "services:\n"
        "  web: {image: a, secrets: [db], configs: [app]}\n"
        "secrets:\n"
        "  db: {file: db.txt}\n"
        "configs:\n"
        "  app: {external: true}\n"
    )
    return str(path)


def view(**fields: object) -> AssetView:
    given = {"current": DIGEST, "kept": True} | fields
    version = AssetVersionView(digest=DIGEST, size_bytes=17, stored_at_s=NOW_S, jobs=("shop/web",))
    return AssetView(
        kind=AssetKind.CONFIG,
        namespace="shop",
        name="app",
        created_at_s=NOW_S,
        changed_at_s=NOW_S,
        versions=(version,),
        **given,
    )


def test_up_hands_contents_in_and_names_their_digests(podium: Podium, file: str) -> None:
    podium.fake.answer(PUT_ASSET, AssetPut(digest=DIGEST, stored=True))
    podium.fake.answer(LIST_ASSETS, AssetList(assets=(view(current="f" * 64),)))
    podium.fake.answer(APPLY, Changes(changes=()))
    result = podium.run("up", "-d", "-f", file)
    assert result.exit_code == 0, result.stderr
    put = podium.asked("Assets/Put")
    assert put == PutAsset(kind=AssetKind.SECRET, namespace="shop", asset="db", content=VALUE.encode())
    (spec,) = podium.asked("Jobs/Apply").specs
    digests = {mount.name: mount.digest for mount in spec.task.container.assets}
    assert digests == {"db": DIGEST, "app": "f" * 64}
    assert VALUE not in result.stdout + result.stderr


def test_plan_gives_nobody_anything_to_keep(podium: Podium, file: str) -> None:
    podium.fake.answer(PUT_ASSET, AssetPut(digest=DIGEST, stored=True))
    podium.fake.answer(LIST_ASSETS, AssetList(assets=(view(),)))
    podium.fake.answer(PLAN, Plan())
    assert podium.run("plan", "-f", file).exit_code == 0
    assert podium.asked("Assets/Put").dry_run


def test_what_is_not_there_or_not_taken_is_told_with_its_line(podium: Podium, file: str) -> None:
    def refuse(_: str, __: PutAsset) -> AssetPut:
        raise Conflict("this cluster has no cluster key")

    podium.fake.answer(PUT_ASSET, refuse)
    podium.fake.answer(LIST_ASSETS, AssetList())
    result = podium.run("up", "-d", "-f", file)
    assert result.exit_code == 2
    assert f"{file}:5: secrets.db: this cluster has no cluster key" in result.stderr
    assert (
        f"{file}:7: configs.app: no config app was made in namespace shop: `podium config create app`" in result.stderr
    )
    assert not [one for one in podium.fake.asked if one.method == "Jobs/Apply"]


def test_one_is_made_from_a_file_and_never_from_the_command_line(podium: Podium, tmp_path: Path) -> None:
    podium.fake.answer(PUT_ASSET, AssetPut(digest=DIGEST, stored=True))
    (tmp_path / "db.txt").write_text(VALUE)
    result = podium.run("secret", "create", "db", str(tmp_path / "db.txt"), "-n", "shop")
    assert result.stdout == "secret shop/db 0123456789ab\n"
    assert (podium.asked("Assets/Put").how, podium.asked("Assets/Put").content) == (PutHow.CREATE, VALUE.encode())
    missing = podium.run("secret", "create", "db", VALUE, "-n", "shop")
    assert missing.exit_code == 2
    assert "cannot be read: No such file or directory" in missing.stderr


def test_a_rotation_says_what_changes_over(podium: Podium, tmp_path: Path) -> None:
    changes = (JobChange(job="shop/web", action="update", version=2, text="digest"),)
    podium.fake.answer(PUT_ASSET, AssetPut(digest=DIGEST, stored=True, changes=changes, warnings=("not: once",)))
    (tmp_path / "db.txt").write_text(VALUE)
    result = podium.run("secret", "rotate", "db", str(tmp_path / "db.txt"), "-n", "shop", "-d")
    assert result.exit_code == 0
    assert "shop/web update (version 2): digest" in result.stdout
    assert "not: once" in result.stderr
    assert podium.asked("Assets/Put").how is PutHow.ROTATE


def test_lists_tell_versions_and_users_and_no_content(podium: Podium) -> None:
    podium.fake.answer(LIST_ASSETS, AssetList(assets=(view(),)))
    (plain,) = podium.json("config", "ls")
    assert plain["versions"][0]["jobs"] == ["shop/web"]
    table = podium.run("config", "ls").stdout.split("\n")
    assert table[1].split() == ["shop/app", "0123456789ab", "17B", "1", "by", "name", "shop/web"]


def test_a_config_can_be_read_and_removed(podium: Podium) -> None:
    podium.fake.answer(READ_CONFIG, ConfigContent(digest=DIGEST, content=b"color=red\n"))
    podium.fake.answer(REMOVE_ASSET, AssetRemoved(kept_versions=1))
    assert podium.run("config", "show", "app", "-n", "shop").stdout == "color=red\n"
    gone = podium.run("config", "rm", "app", "-n", "shop").stdout
    assert gone == "config shop/app removed; 1 of its versions stay for jobs that can go back to them\n"
