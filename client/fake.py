"""A transport without a network: answers come from functions, and everything asked is kept. For tests of programs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import msgspec

from client.transport import AnswerT, Method, RequestT
from common.errors import Unavailable


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One call as it reached an address."""

    address: str
    method: str
    """As in the protocol, e.g. `Jobs/Apply`."""
    request: Any


class FakeTransport:
    """`client.transport.Transport`. A method without an answer is unavailable everywhere."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.closed = False
        self._answers: dict[str, Callable[[str, Any], Any]] = {}
        self._streams: dict[str, Callable[[str, Any], AsyncGenerator[Any, None]]] = {}
        self._conversations: dict[str, Callable[[str, Any], AsyncGenerator[Any, None]]] = {}

    def answer(self, method: Method[RequestT, AnswerT], answer: AnswerT | Callable[[str, RequestT], AnswerT]) -> None:
        """Answer every call of `method` with a value, or with what a function of (address, request) does."""
        self._answers[method.path] = answer if callable(answer) else lambda address, request: answer

    def stream(
        self,
        method: Method[RequestT, AnswerT],
        answers: Iterable[AnswerT] | Callable[[str, RequestT], AsyncGenerator[AnswerT, None]],
        *,
        then: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Answer with these values, then wait for `then` (which may never return); or with a function's generator."""
        if callable(answers):
            self._streams[method.path] = answers
            return
        kept = tuple(answers)

        async def generate(address: str, request: RequestT) -> AsyncGenerator[AnswerT, None]:
            for answer in kept:
                yield answer
            if then is not None:
                await then()

        self._streams[method.path] = generate

    async def ask(
        self, address: str, method: Method[RequestT, AnswerT], request: RequestT, *, timeout_s: float
    ) -> AnswerT:
        answer = self._answers.get(method.path)
        self._note(address, method.path, request, known=answer is not None)
        assert answer is not None
        result: AnswerT = answer(address, request)
        return result

    async def follow(
        self, address: str, method: Method[RequestT, AnswerT], request: RequestT
    ) -> AsyncGenerator[AnswerT, None]:
        stream = self._streams.get(method.path)
        self._note(address, method.path, request, known=stream is not None)
        assert stream is not None
        async for answer in stream(address, request):
            yield answer

    def converse_with(
        self,
        method: Method[RequestT, AnswerT],
        answers: Callable[[str, AsyncIterator[RequestT]], AsyncGenerator[AnswerT, None]],
    ) -> None:
        """Answer with a function's generator, which is given the requests as they come."""
        self._conversations[method.path] = answers

    async def converse(
        self, address: str, method: Method[RequestT, AnswerT], requests: AsyncIterator[RequestT]
    ) -> AsyncGenerator[AnswerT, None]:
        """What is kept as asked is the first request."""
        answers = self._conversations.get(method.path)
        self._note(address, method.path, await anext(requests), known=answers is not None)
        assert answers is not None
        async for answer in answers(address, requests):
            yield answer

    async def close(self) -> None:
        self.closed = True

    def _note(self, address: str, path: str, request: msgspec.Struct, *, known: bool) -> None:
        self.asked.append(Asked(address=address, method=path.removeprefix("/podium.v1."), request=request))
        if not known:
            raise Unavailable(f"{address}: nothing answers {path}")
