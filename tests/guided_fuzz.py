"""Coverage-guided fuzzing of every parser of what comes from outside: `make fuzz GUIDED=60`, by atheris (libFuzzer).

What hypothesis tries in the suite is drawn at random; here each input that reaches new code is kept and varied further.
What was kept lies in `.fuzz/TARGET`, and so does what a parser failed on, beside the line that tries it again. A parser
fails by anything but a value or an error of ours, or by taking longer than ten seconds or more than a gigabyte.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

FOLDER = Path(".fuzz")
OURS = ["agent", "client", "common", "controller"]
BOUNDS = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=4096")


def fuzz(name: str, arguments: list[str]) -> None:
    """One target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=OURS):
        from tests.guided_targets import targets
    parse, begun = targets()[name]
    from common.errors import PodiumError

    folder = FOLDER / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(begun):
        (folder / f"begun-{number}").write_bytes(content)

    def one(content: bytes) -> None:
        with suppress(PodiumError):
            parse(content)

    tried = [argument for argument in arguments if not argument.startswith("-")]
    places = tried or [str(folder)]
    options = [argument for argument in arguments if argument.startswith("-")]
    atheris.Setup([sys.argv[0], *BOUNDS, f"-artifact_prefix={folder}/failed-", *options, *places], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.guided_fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all where none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument(
        "--one", metavar="TARGET", help="in this process; the rest is for libFuzzer: a file is tried alone"
    )
    given, rest = parser.parse_known_args()
    if given.one:
        fuzz(given.one, [*given.targets, *rest])
        return 0
    from tests.guided_targets import targets

    known = list(targets())
    if given.list:
        sys.stdout.write("\n".join(known) + "\n")
        return 0
    wrong = sorted(set(given.targets) - set(known))
    if wrong:
        parser.error(f"no target {', '.join(wrong)}; there are {', '.join(known)}")
    failed = [name for name in given.targets or known if not held(name, given.seconds)]
    sys.stdout.write(f"{len(given.targets or known) - len(failed)} held, failed: {', '.join(failed) or 'none'}\n")
    return 1 if failed else 0


def held(name: str, seconds: int) -> bool:
    """Whether nothing was found in so many seconds; what was is shown."""
    command = [sys.executable, "-m", "tests.guided_fuzz", "--one", name, f"-max_total_time={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    counted = [line for line in done.stderr.splitlines() if "cov:" in line][-1:]
    sys.stdout.write(f"{name}: {'held' if done.returncode == 0 else 'FAILED'}: {' '.join(counted)}\n")
    if done.returncode:
        sys.stdout.write(f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n")
        sys.stdout.write(
            f"again: python -m tests.guided_fuzz --one {name!r} {FOLDER}/{name.replace(' ', '-')}/failed-...\n"
        )
    sys.stdout.flush()
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
