"""Sets of positive whole numbers as spans: `1-40,42`. What is dense costs next to nothing, however much it is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Immutable."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        """`spans` are pairs of a first and a last number, in order and not touching each other."""
        self._spans = tuple(spans)
        self._firsts = [first for first, _ in self._spans]

    @classmethod
    def of(cls, text: str) -> Spans:
        pairs = (span.partition("-") for span in text.split(",") if span)
        return cls((int(first), int(last or first)) for first, _, last in pairs)

    @classmethod
    def up_to(cls, last: int) -> Spans:
        return cls([(1, last)] if last > 0 else [])

    def __str__(self) -> str:
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self._spans)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._spans)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._spans[place][1]

    def __iter__(self) -> Iterator[int]:
        return (number for first, last in self._spans for number in range(first, last + 1))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and self._spans == other._spans

    def __hash__(self) -> int:
        return hash(self._spans)

    def with_spans_of(self, other: Spans) -> Spans:
        """Both together."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted((*self._spans, *other._spans)):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return Spans(merged)

    def with_numbers(self, numbers: Iterable[int]) -> Spans:
        more = sorted(set(numbers))
        return self.with_spans_of(Spans((number, number) for number in more)) if more else self

    def within(self, last: int) -> Spans:
        """Without what is greater."""
        return Spans((first, min(end, last)) for first, end in self._spans if first <= last)

    def missing(self, last: int) -> Iterator[int]:
        """Numbers from 1 to `last` that are not in it, in order."""
        begin = 1
        for first, end in self._spans:
            yield from range(begin, min(first, last + 1))
            begin = max(begin, end + 1)
        yield from range(begin, last + 1)
