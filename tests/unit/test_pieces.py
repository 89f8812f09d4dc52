"""Long answers are cut into pieces that fit, and are whole again afterwards."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from common.pieces import cut, join


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    tasks: tuple[int, ...] = ()
    slots: tuple[str, ...] = ()


answers = st.builds(
    Answer, name=st.text(max_size=3), tasks=st.lists(st.integers()).map(tuple), slots=st.lists(st.text()).map(tuple)
)


@given(answer=answers, most=st.integers(1, 7))
def test_pieces_fit_and_join_to_what_was_cut(answer: Answer, most: int) -> None:
    pieces = list(cut(answer, most))
    assert join(pieces) == answer
    assert {piece.name for piece in pieces} == {answer.name}
    items = len(answer.tasks) + len(answer.slots)
    assert [len(piece.tasks) + len(piece.slots) for piece in pieces[:-1]] == [most] * (len(pieces) - 1)
    assert len(pieces) == max(1, -(-items // most))
