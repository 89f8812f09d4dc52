"""What a person is told beside the data, and how a command ends with it. Needs none of the command line's libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.errors import PodiumError


def say(message: str) -> None:
    """A message for the person: on stderr, so that stdout holds data only."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def report(error: PodiumError) -> None:
    """Tell the person what went wrong and what to do."""
    from cli.errors import explain

    for line in explain(error):
        say(line)


@contextmanager
def ending(leave: Callable[[int], BaseException]) -> Iterator[None]:
    """Turn what may be expected to go wrong into a message and `leave` with its exit code: never a traceback."""
    # Imported here: the values below cost time that `--help` does not have.
    from cli.errors import FAILED, INTERRUPTED, exit_code
    from common.errors import PodiumError

    try:
        yield
    except PodiumError as error:
        report(error)
        raise leave(exit_code(error)) from None
    except KeyboardInterrupt:
        raise leave(INTERRUPTED) from None
    except BrokenPipeError:
        raise  # typer ends quietly: whoever read us has seen enough
    except OSError as error:
        say(f"error: {error}")
        raise leave(FAILED) from None
