"""Reads DNS questions and writes the answers to those about our names: RFC 1035, 2308, 2782 and 6891. PURE.

Whatever bytes come, reading them ends in a question, in an answer that says what is wrong, or in silence.
"""

from __future__ import annotations

from collections.abc import Iterable

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import msgspec

from agent.core.names import DOMAIN
from agent.network.names.zone import Known, Meant

TTL_S = 1
"""So that nobody remembers an address for longer than it takes to be told another one."""
DATAGRAM_BYTES = 1232
"""Largest answer over UDP to those who take as much: more may be cut into pieces on the way, and pieces get lost."""
PLAIN_DATAGRAM_BYTES = 512
"""To those who say nothing."""
STREAM_BYTES = 65_535

_HEADER_BYTES = 12
_RESPONSE_BIT = 0x80
_SOA = f"ns.{DOMAIN}. hostmaster.{DOMAIN}. 1 3600 600 86400 {TTL_S}"
_ASKED_FOR_ALL = dns.rdatatype.ANY


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to know."""

    message: dns.message.Message
    labels: tuple[str, ...]
    """Of the name, in lower case; bytes that are no ASCII stand as such nowhere in our names."""

    @property
    def limit_bytes(self) -> int:
        """What its asker takes in one datagram."""
        if self.message.edns < 0:
            return PLAIN_DATAGRAM_BYTES
        return max(PLAIN_DATAGRAM_BYTES, min(self.message.payload, DATAGRAM_BYTES))


def read(query: bytes) -> Question | bytes | None:
    """The question in a message, or the answer to one that cannot be read, or None for what deserves none.

    An answer is never answered: two servers would talk to each other for ever.
    """
    if len(query) < _HEADER_BYTES or query[2] & _RESPONSE_BIT:
        return None
    try:
        message = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError):
        return refusal(query, dns.rcode.FORMERR)
    if message.opcode() != dns.opcode.QUERY:
        return refusal(query, dns.rcode.NOTIMP)
    if len(message.question) != 1:
        return refusal(query, dns.rcode.FORMERR)
    asked = message.question[0]
    if asked.rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
        return refusal(query, dns.rcode.REFUSED)
    labels = tuple(label.decode("latin-1").lower() for label in asked.name.labels if label)
    return Question(message=message, labels=labels)


def refusal(query: bytes, code: dns.rcode.Rcode) -> bytes:
    """An answer of nothing but its header, to a message of at least a header."""
    flags = bytes((_RESPONSE_BIT | query[2] & 0x79, code.value))
    return query[:2] + flags + bytes(8)


def tell(question: Question, meant: Meant, address: str, *, limit_bytes: int) -> bytes:
    """Of a name that means somebody: the address (A), where each port answers (SRV), or that there is nothing else."""
    asked = question.message.question[0]
    answers: list[dns.rrset.RRset] = []
    if asked.rdtype in (dns.rdatatype.A, _ASKED_FOR_ALL):
        answers.append(dns.rrset.from_text(asked.name, TTL_S, "IN", "A", address))
    if asked.rdtype in (dns.rdatatype.SRV, _ASKED_FOR_ALL) and (places := _places(meant)):
        answers.append(dns.rrset.from_text_list(asked.name, TTL_S, "IN", "SRV", places))
    return _written(question, answers, dns.rcode.NOERROR, limit_bytes)


def tell_nothing(question: Question, *, exists: bool, limit_bytes: int) -> bytes:
    """Of a name of ours that means nobody; it `exists` when others stand below it."""
    return _written(question, [], dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN, limit_bytes)


def fail(question: Question) -> bytes:
    """Of a name that others should know, and nobody said anything."""
    response = dns.message.make_response(question.message, recursion_available=True)
    response.set_rcode(dns.rcode.SERVFAIL)
    return response.to_wire()


def _places(meant: Meant) -> list[str]:
    """For one who chooses for himself: each slot that answers, and the port."""
    return [
        f"0 1 {entrance.port} {_full_name(meant.job, number)}"
        for entrance in meant.job.entrances
        for number in entrance.slots
        if meant.slot in (None, number)
    ]


def _full_name(job: Known, number: int) -> str:
    return f"{number}.{job.name}.{job.namespace}.{DOMAIN}."


def _written(question: Question, answers: Iterable[dns.rrset.RRset], code: dns.rcode.Rcode, limit_bytes: int) -> bytes:
    response = dns.message.make_response(question.message, recursion_available=True, our_payload=DATAGRAM_BYTES)
    response.flags |= dns.flags.AA
    response.set_rcode(code)
    response.answer.extend(answers)
    if not response.answer:
        response.authority.append(dns.rrset.from_text(f"{DOMAIN}.", TTL_S, "IN", "SOA", _SOA))
    try:
        return response.to_wire(max_size=limit_bytes)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC  # they ask again over TCP
        return response.to_wire(max_size=limit_bytes)
