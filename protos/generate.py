"""Generates the modules of protos/v1 beside their .proto files; with --check, fails when what is committed differs."""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("protos/v1")


def generate(target: Path) -> None:
    """Write the generated modules and their stubs below `target`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.proto"))
    # The stub generators are protoc plug-ins that lie beside this interpreter.
    plugins = Path(sys.executable).parent
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I."),
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *sources,
        ],
        cwd=ROOT,
        check=True,
    )


def drifted(target: Path) -> list[str]:
    """Names of generated files that differ between `target` and the checkout, or exist in one of them only."""
    fresh = {path.name for path in (target / FOLDER).glob("*_pb2*")}
    committed = {path.name for path in (ROOT / FOLDER).glob("*_pb2*")}
    differing = {
        name
        for name in fresh & committed
        if not filecmp.cmp(target / FOLDER / name, ROOT / FOLDER / name, shallow=False)
    }
    return sorted(differing | (fresh ^ committed))


def main() -> int:
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = drifted(Path(folder))
    if names:
        sys.stderr.write(f"generated code is out of date: {', '.join(names)}; run `make proto` and commit\n")
    return 1 if names else 0


if __name__ == "__main__":
    raise SystemExit(main())
