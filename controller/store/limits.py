"""What every backend refuses before it writes anything, so that a commit valid on one is valid on all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.errors import Fault, Invalid
from controller.store.interface import MAX_COMMIT_BYTES, MAX_OPERATIONS, Operation, Put


def check_operations(operations: Sequence[Operation]) -> None:
    """Raises `Invalid` with everything that keeps these operations from being one commit."""
    faults = [*_faults_of_keys(operations), *_faults_of_size(operations)]
    if faults:
        raise Invalid(faults)


def _faults_of_keys(operations: Sequence[Operation]) -> Iterator[Fault]:
    seen: set[str] = set()
    for operation in operations:
        key = operation.key
        if not key:
            yield Fault(path="key", text="is empty")
        elif not _is_unicode(key):
            yield Fault(path=ascii(key), text="holds half a surrogate pair, which has no UTF-8 form")
        elif key in seen:
            yield Fault(path=key, text="is written twice in one commit; send what it ends as")
        seen.add(key)


def _faults_of_size(operations: Sequence[Operation]) -> Iterator[Fault]:
    if len(operations) > MAX_OPERATIONS:
        yield Fault(path="", text=f"{len(operations)} operations in one commit; at most {MAX_OPERATIONS}")
    size_bytes = sum(_size_bytes(operation) for operation in operations)
    if size_bytes > MAX_COMMIT_BYTES:
        yield Fault(path="", text=f"{size_bytes} bytes of keys and values in one commit; at most {MAX_COMMIT_BYTES}")


def _size_bytes(operation: Operation) -> int:
    key_bytes = len(operation.key.encode(errors="surrogatepass"))
    return key_bytes + (len(operation.value) if isinstance(operation, Put) else 0)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
