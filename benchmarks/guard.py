"""What a benchmark starts ends with it, however it ends: finished, interrupted, terminated or killed.

Whatever is begun inside `guarded` inherits a mark in its environment and a directory for temporary files. A process
beside the benchmark waits until that is gone, then ends what still carries the mark and removes the directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "PODIUM_BENCHMARK_RUN"


@contextmanager
def guarded() -> Iterator[None]:
    """See the module. SIGTERM (of `timeout`, say) counts as ^C: what was started is taken down in order."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    run, directory = uuid.uuid4().hex, tempfile.mkdtemp(prefix="podium-benchmark-")
    command = [sys.executable, "-m", "benchmarks.guard", run, directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watching:
        os.environ[MARK] = run
        os.environ["TMPDIR"] = tempfile.tempdir = directory
        try:
            yield
        finally:
            assert watching.stdin is not None
            watching.stdin.close()


def main() -> None:
    """Until standard input ends: nobody writes to it, so that is when the benchmark is gone."""
    run, directory = sys.argv[1:]
    sys.stdin.read()
    while left := [process for process in psutil.process_iter() if _carries(process, run)]:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
    shutil.rmtree(directory, ignore_errors=True)


def _carries(process: psutil.Process, run: str) -> bool:
    with suppress(psutil.Error):
        return process.pid != os.getpid() and bool(process.environ().get(MARK) == run)
    return False


if __name__ == "__main__":
    main()
