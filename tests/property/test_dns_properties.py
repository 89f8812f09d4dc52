"""The DNS answers of a node: whatever bytes come, and whatever name is asked for."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st

from agent.network.names import answers
from agent.network.names.answers import Question
from agent.network.names.zone import Meant
from tests.unit.test_names import service, zone_of

KNOWN = ("web.shop.podium", "web.shop", "2.web.shop.podium", "db")
ZONE = zone_of(service("web", 1, 2), service("db", 1, port=5432))

questions = st.builds(
    lambda name, kind, edns: dns.message.make_query(name, kind, use_edns=edns),
    st.sampled_from(KNOWN),
    st.sampled_from(["A", "AAAA", "SRV", "TXT", "ANY", "MX", "SOA", "CAA"]),
    st.booleans(),
).map(lambda query: query.to_wire())


def spoilt(wire: bytes, places: list[tuple[int, int]]) -> bytes:
    changed = bytearray(wire)
    for place, byte in places:
        changed[place % len(changed)] = byte
    return bytes(changed)


packets = st.one_of(
    st.binary(max_size=600),
    st.builds(spoilt, questions, st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6)),
    st.builds(lambda wire, at: wire[: at % (len(wire) + 1)], questions, st.integers(0, 600)),
)


@given(packets)
def test_no_packet_breaks_it_and_no_answer_is_answered(packet: bytes) -> None:
    match answers.read(packet):
        case None:
            assert len(packet) < 12 or packet[2] & 0x80
        case bytes() as answer:
            assert answer[:2] == packet[:2]
            assert answer[2] & 0x80
            assert dns.message.from_wire(answer).rcode() != dns.rcode.NOERROR
            assert len(answer) <= len(packet)
        case Question() as question:
            found = ZONE.find(question.labels)
            if isinstance(found, Meant):
                said = answers.tell(question, found, "198.18.16.7", limit_bytes=question.limit_bytes)
            else:
                said = answers.tell_nothing(question, exists=False, limit_bytes=question.limit_bytes)
            assert dns.message.from_wire(said).id == int.from_bytes(packet[:2], "big")
            assert len(said) <= question.limit_bytes


@given(questions, st.randoms(use_true_random=False))
def test_names_are_the_same_in_any_case(wire: bytes, chance: object) -> None:
    query = dns.message.from_wire(wire)
    asked = query.question[0]
    mixed = "".join(chance.choice((letter.lower(), letter.upper())) for letter in asked.name.to_text())  # type: ignore[attr-defined]
    other = dns.message.make_query(mixed, asked.rdtype, use_edns=query.edns >= 0)
    plain, odd = answers.read(wire), answers.read(other.to_wire())
    assert isinstance(plain, Question)
    assert isinstance(odd, Question)
    assert ZONE.find(plain.labels) == ZONE.find(odd.labels)


@given(questions)
def test_an_answer_has_what_was_asked_for_or_says_that_there_is_nothing(wire: bytes) -> None:
    question = answers.read(wire)
    assert isinstance(question, Question)
    found = ZONE.find(question.labels)
    assert isinstance(found, Meant)
    said = dns.message.from_wire(answers.tell(question, found, "198.18.16.7", limit_bytes=1232))
    asked = question.message.question[0].rdtype
    assert said.rcode() == dns.rcode.NOERROR
    assert said.flags & dns.flags.AA
    kinds = {answer.rdtype for answer in said.answer}
    wanted = {dns.rdatatype.A, dns.rdatatype.SRV}
    assert kinds == (wanted if asked == dns.rdatatype.ANY else wanted & {asked})
    assert all(answer.ttl == 1 for answer in said.answer)
    assert bool(said.authority) != bool(said.answer)  # how long nothing may be remembered


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=4))
def test_any_name_means_something(labels: list[bytes]) -> None:
    wire = dns.message.make_query(dns.name.Name([*labels, b""]), "A").to_wire()
    question = answers.read(wire)
    assert isinstance(question, Question)
    ZONE.find(question.labels)
