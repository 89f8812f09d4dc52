"""The console script: reads the command line, or goes on as what an earlier reading of it has ordered."""

from __future__ import annotations

import os


def main() -> None:
    # gRPC's C library writes notes of its own to stderr, e.g. whenever a process is started; what matters of them
    # comes as an error too. Read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if "PODIUM_ORDER_FD" in os.environ:
        from cli.resident import main as go_on

        go_on()
    from cli.app import app
    from cli.command import Surroundings

    app(prog_name="podium", obj=Surroundings(own_process=True))


if __name__ == "__main__":
    main()
