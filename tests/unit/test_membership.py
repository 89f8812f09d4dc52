"""A node joins once, renews in time, finds back by its key, and is locked out by no answer that was lost."""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.membership import Certificate, Membership
from common.certificates import facts, fingerprint, key_digest, requested_key
from common.errors import Conflict, Invalid, NotLeader, PodiumError, Unauthenticated, Unavailable
from common.identity import Identity
from common.model.joining import Doors, Joined, JoinRequest, RecoverRequest, RenewRequest
from common.model.trust import Kind
from common.private_files import write_private
from common.tokens import JOIN, Token
from controller.core.joining import CERTIFICATE_S
from controller.security.authority import issue, new_authority, settled, successor
from controller.security.sealing import ClusterKey, KeyRing
from tests.virtual_time import on_virtual_time

RING = KeyRing([ClusterKey(secret=b"k" * 32)])
EPOCH_S = 1_800_000_000.0
LEADER, FOLLOWER = "10.0.0.1:7077", "10.0.0.2:7077"


def clock() -> float:
    return EPOCH_S + asyncio.get_running_loop().time()


class FakeTrust:
    """The service as `controller.core.joining` decides; `lose` swallows that many answers, after they were decided."""

    def __init__(self) -> None:
        self.authority_now = new_authority(RING, EPOCH_S, random.Random(1))
        self.token = Token(purpose=JOIN, id="t1", secret="s" * 32, pin=fingerprint(self.authority_now.certificates[0]))
        self.known = ""
        """Digest of the node's key."""
        self.calls: list[str] = []
        self.lose = 0
        self.lost = asyncio.Event()
        self.refuse: Callable[[str], PodiumError | None] = lambda _call: None

    async def authority(self, address: str, pin: str) -> str:
        assert pin == self.token.pin
        return self.authority_now.certificates[0]

    async def doors(self, address: str, own: Certificate) -> Doors:
        self._called("doors", address)
        return Doors(
            cluster_id=self.authority_now.cluster_id, certificates=self.authority_now.certificates, agent_port=7076
        )

    async def join(self, address: str, authority: str, request: JoinRequest) -> Joined:
        self._called("join", address)
        digest = key_digest(requested_key(request.signing_request))
        if request.secret != self.token.secret or request.token_id != self.token.id:
            raise Unauthenticated("this token does not count")
        if self.known not in ("", digest):
            raise Conflict("another machine is agent n1")
        return self._signed(request.signing_request)

    async def renew(self, address: str, own: Certificate, request: RenewRequest) -> Joined:
        self._called("renew", address)
        return self._signed(request.signing_request)

    async def recover(self, address: str, own: Certificate, request: RecoverRequest) -> Joined:
        self._called("recover", address)
        if key_digest(requested_key(request.signing_request)) != self.known:
            raise Unauthenticated("not known by this key")
        return self._signed(request.signing_request)

    def _called(self, what: str, address: str) -> None:
        self.calls.append(f"{what} {address}")
        error = self.refuse(self.calls[-1])
        if error is not None:
            raise error

    def _signed(self, request: str) -> Joined:
        self.known = key_digest(requested_key(request))
        if self.lose:
            self.lose -= 1
            self.lost.set()
            raise Unavailable("the answer was lost")
        authority = self.authority_now
        who = Identity(cluster_id=authority.cluster_id, kind=Kind.AGENT, id="n1")
        return Joined(
            cluster_id=who.cluster_id,
            kind=who.kind,
            id=who.id,
            chain=issue(RING, authority, who, request, clock()),
            certificates=authority.certificates,
        )


def member(trust: FakeTrust, path: Path, *controllers: str) -> Membership:
    return Membership(path / "identity.json", "n1", controllers or (LEADER,), trust, clock=clock, rng=random.Random(5))


@asynccontextmanager
async def running(one: Membership, token: str = "", file: str = "") -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(one.run(token, file))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def joined(trust: FakeTrust, path: Path) -> Membership:
    one = member(trust, path)
    async with running(one, str(trust.token)):
        await asyncio.sleep(1.0)
    assert one.joined
    return one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path


@on_virtual_time
async def _joins_and_keeps(path: Path) -> None:
    trust = FakeTrust()
    one = await joined(trust, path)
    file = path / "identity.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert trust.token.secret not in file.read_text()
    again = member(trust, path)
    assert again.own == one.own
    assert "PRIVATE" not in repr(again.own)


def test_a_node_joins_and_remembers_it(path: Path) -> None:
    _joins_and_keeps(path)


@on_virtual_time
async def _follows(path: Path) -> None:
    trust = FakeTrust()
    trust.refuse = lambda call: NotLeader(LEADER) if FOLLOWER in call else None
    one = member(trust, path, FOLLOWER)
    async with running(one, str(trust.token)):
        await asyncio.sleep(1.0)
    assert trust.calls == [f"join {FOLLOWER}", f"join {LEADER}"]


def test_a_controller_that_follows_names_the_one_to_ask(path: Path) -> None:
    _follows(path)


@on_virtual_time
async def _waits(path: Path) -> None:
    trust = FakeTrust()
    trust.refuse = lambda call: Unavailable("nobody there") if len(trust.calls) < 4 else None
    one = await joined_after(trust, path, 300.0)
    assert one.joined


async def joined_after(trust: FakeTrust, path: Path, wait_s: float) -> Membership:
    one = member(trust, path)
    async with running(one, str(trust.token)):
        await asyncio.sleep(wait_s)
    return one


def test_it_waits_for_a_controller(path: Path) -> None:
    _waits(path)


@on_virtual_time
async def _refused(path: Path) -> None:
    trust = FakeTrust()
    one = member(trust, path)
    wrong = Token(purpose=JOIN, id="t1", secret="x" * 32, pin=trust.token.pin)
    with pytest.raises(Unauthenticated):
        await one.run(str(wrong))
    with pytest.raises(Invalid):
        await one.run("nonsense")
    assert not one.joined
    with pytest.raises(Unavailable, match="not joined"):
        await one.door(LEADER)


def test_a_token_that_does_not_count_ends_it(path: Path) -> None:
    _refused(path)


@on_virtual_time
async def _renews(path: Path) -> None:
    trust = FakeTrust()
    one = await joined(trust, path)
    first = one.own
    async with running(one):
        await asyncio.sleep(0.49 * CERTIFICATE_S)
        assert one.own == first
        await asyncio.sleep(0.32 * CERTIFICATE_S)
        assert one.own.key != first.key
        assert trust.calls[-1] == "renew 10.0.0.1:7076"
        await asyncio.sleep(10 * CERTIFICATE_S)
        assert facts(one.own.chain).not_after_s > clock()


def test_it_renews_between_half_and_four_fifths_of_a_life_and_again(path: Path) -> None:
    _renews(path)


@on_virtual_time
async def _lost(path: Path) -> None:
    trust = FakeTrust()
    one = await joined(trust, path)
    trust.lose = 1
    async with running(one):
        await trust.lost.wait()
    # Cut off before it asks again, and started when all that it has shown has expired.
    await asyncio.sleep(3 * CERTIFICATE_S)
    trust.calls.clear()
    again = member(trust, path)
    async with running(again):
        await asyncio.sleep(600.0)
    assert facts(again.own.chain).not_after_s > clock()
    assert trust.calls[0] == f"recover {LEADER}"


def test_a_lost_answer_locks_nobody_out(path: Path) -> None:
    _lost(path)


@on_virtual_time
async def _expired(path: Path) -> None:
    trust = FakeTrust()
    await joined(trust, path)
    await asyncio.sleep(3 * CERTIFICATE_S)
    one = member(trust, path)
    async with running(one):
        await asyncio.sleep(60.0)
    assert facts(one.own.chain).not_after_s > clock()


def test_a_certificate_that_expired_while_it_was_off_is_replaced_by_its_key(path: Path) -> None:
    _expired(path)


@on_virtual_time
async def _removed(path: Path) -> None:
    trust = FakeTrust()
    one = await joined(trust, path)
    trust.refuse = lambda call: Unauthenticated("was removed") if "renew" in call or "recover" in call else None
    async with running(one) as task:
        await asyncio.sleep(2 * CERTIFICATE_S)
        assert not task.done()
    assert len(trust.calls) < 2 * CERTIFICATE_S / 3_600 * 3


def test_a_removed_node_goes_on_asking_now_and_then(path: Path) -> None:
    _removed(path)


@on_virtual_time
async def _rotated(path: Path) -> None:
    trust = FakeTrust()
    one = await joined(trust, path)
    before = trust.authority_now
    trust.authority_now = successor(RING, before, clock())
    assert await one.door(LEADER) == "10.0.0.1:7076"
    assert one.own.authorities == trust.authority_now.certificates
    trust.authority_now = settled(trust.authority_now)
    one.forget_door(LEADER)
    await one.door(LEADER)
    assert member(trust, path).own.authorities == trust.authority_now.certificates


def test_it_learns_whom_the_cluster_believes_by_now(path: Path) -> None:
    _rotated(path)


@pytest.mark.parametrize("content", ["", "{}", "nonsense", '{"cluster_id": "c"}'])
def test_a_file_that_is_broken_is_named_with_the_way_out(path: Path, content: str) -> None:
    file = path / "identity.json"
    file.touch(0o600)
    file.write_text(content)
    with pytest.raises(Invalid, match=r"identity\.json.*--join TOKEN"):
        member(FakeTrust(), path)


@on_virtual_time
async def _anew(path: Path) -> None:
    trust = FakeTrust()
    before = await joined(trust, path)
    again = member(trust, path)
    async with running(again, str(trust.token)):  # the token that it joined by says nothing new
        await asyncio.sleep(1.0)
    assert [call for call in trust.calls if "join" in call] == [f"join {LEADER}"]
    trust.known = ""  # the node was removed, and is given another token
    trust.token = Token(purpose=JOIN, id="t2", secret="r" * 32, pin=trust.token.pin)
    async with running(again, str(trust.token)):
        await asyncio.sleep(1.0)
    assert again.own.token_id == "t2"
    assert again.own.key != before.own.key


def test_a_removed_node_joins_anew_by_another_token(path: Path) -> None:
    _anew(path)


@on_virtual_time
async def _known(path: Path) -> None:
    trust = FakeTrust()
    before = await joined(trust, path)
    trust.token = Token(purpose=JOIN, id="t2", secret="r" * 32, pin=trust.token.pin)
    one = member(trust, path)
    async with running(one, str(trust.token)):
        await asyncio.sleep(1.0)
    assert (one.own.token_id, one.own.key) == ("t2", before.own.key)


def test_a_node_that_the_cluster_still_knows_joins_anew_by_its_key(path: Path) -> None:
    _known(path)


@on_virtual_time
async def _left_over(path: Path) -> None:
    trust = FakeTrust()
    before = await joined(trust, path)
    one = member(trust, path)
    async with running(one, str(Token(purpose=JOIN, id="t9", secret="x" * 32, pin=trust.token.pin))) as task:
        await asyncio.sleep(1.0)
        assert not task.done()
    assert one.own == before.own


def test_a_member_with_a_token_that_counts_no_more_stays_one(path: Path) -> None:
    _left_over(path)


@on_virtual_time
async def _its_turn(path: Path) -> None:
    trust = FakeTrust()
    one = await joined(trust, path)
    before = trust.authority_now
    trust.authority_now = successor(RING, before, clock())
    async with running(one):
        one.renew_unless_of(fingerprint(before.certificates[0]))
        await asyncio.sleep(1.0)
        assert "renew" not in str(trust.calls)
        for _ in range(3):  # each heartbeat says it until it is done, and maybe once more
            one.renew_unless_of(fingerprint(trust.authority_now.certificates[0]))
            await asyncio.sleep(1.0)
    assert [call for call in trust.calls if "renew" in call] == ["renew 10.0.0.1:7076"]
    assert one.own.signer == fingerprint(trust.authority_now.certificates[0])
    assert one.own.authorities == trust.authority_now.certificates


def test_a_replaced_authority_has_it_renew_once_when_it_is_its_turn(path: Path) -> None:
    _its_turn(path)


# --- the file that a token is left in


@on_virtual_time
async def test_a_node_waits_for_the_file_with_its_token(tmp_path: Path) -> None:
    trust, file = FakeTrust(), tmp_path / "join.token"
    one = member(trust, tmp_path)
    async with running(one, file=str(file)):
        await asyncio.sleep(100.0)
        assert not one.joined
        write_private(file, f"{trust.token}\n")
        await asyncio.sleep(1.0)
        assert one.joined


@on_virtual_time
async def test_a_file_that_others_may_read_or_that_holds_no_token_is_refused_by_its_name(tmp_path: Path) -> None:
    trust, file = FakeTrust(), tmp_path / "join.token"
    write_private(file, "podium-join\n")
    with pytest.raises(Invalid, match=r"join\.token: not a token"):
        await member(trust, tmp_path).run("", str(file))
    file.chmod(0o644)
    with pytest.raises(Invalid, match=r"join\.token may be read by others"):
        await member(trust, tmp_path).run("", str(file))


@on_virtual_time
async def test_a_member_waits_for_no_file_and_goes_on_beside_one_that_is_none(tmp_path: Path) -> None:
    trust, file = FakeTrust(), tmp_path / "join.token"
    await joined(trust, tmp_path)
    trust.calls.clear()
    for text in ("", "podium-join\n"):
        if text:
            write_private(file, text)
        one = member(trust, tmp_path)
        async with running(one, file=str(file)) as task:
            await asyncio.sleep(CERTIFICATE_S)
            assert not task.done()
        assert any(call.startswith("renew") for call in trust.calls)
        assert not any(call.startswith("join") for call in trust.calls)
        trust.calls.clear()
