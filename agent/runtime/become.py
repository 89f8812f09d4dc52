"""Becomes another user, then another program: `become.py UID GID GROUP,... PROGRAM ARGUMENT...`. Standard library only.

uvloop cannot start a process as another user, and code between fork and exec is not safe in a process with threads.
"""

from __future__ import annotations

import os
import sys
import warnings  # noqa: F401 - `execvp` imports it, and by then the interpreter's files may be out of reach


def main() -> None:
    """Never returns: the program, or exit code 127 (not found) or 126 (not executable) with the reason on stderr."""
    uid, gid, groups, *argv = sys.argv[1:]
    os.setgroups([int(group) for group in groups.split(",") if group])
    os.setgid(int(gid))
    os.setuid(int(uid))
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the user's own program
    except OSError as error:
        sys.stderr.write(f"cannot execute `{argv[0]}`: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
