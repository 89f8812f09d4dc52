"""Becomes another user, then another program: `become.py UID GID GROUP,... PROGRAM ARGUMENT...`. Standard library only.

With `-` for UID it stays who it is. When its standard input is a terminal, that becomes the one of its session first.

uvloop cannot start a process as another user, and code between fork and exec is not safe in a process with threads.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import termios
import warnings  # noqa: F401 - `execvp` imports it, and by then the interpreter's files may be out of reach

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Never returns: the program, or exit code 127 (not found) or 126 (not executable) with the reason on stderr."""
    uid, gid, groups, *argv = sys.argv[1:]
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if uid != "-":
        if os.isatty(0):
            os.fchown(0, int(uid), -1)  # it may open its terminal by name
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setgid(int(gid))
        os.setuid(int(uid))
    # An agent that was started in the background of a script ignores ^C; what runs in a terminal of its own must not.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    # Nobody else would ever end it: it ends with the agent. After the change of user, which takes this back.
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # no more rights than the task has
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the user's own program
    except OSError as error:
        sys.stderr.write(f"cannot execute `{argv[0]}`: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
