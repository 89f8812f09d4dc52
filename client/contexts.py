"""The contexts file: the clusters that a user named, and where it lies. Which of them counts is said in `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.errors import Fault, Invalid
from common.private_files import write_private


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One named cluster of the contexts file."""

    controllers: tuple[str, ...] = ()
    namespace: str = ""
    insecure: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    token: str = ""
    authority: str = ""


class Contexts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contexts file, `~/.config/podium/config.yaml`."""

    current: str = ""
    contexts: dict[str, Context] = {}


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the contexts file is, whether it exists or not."""
    if given := environ.get("PODIUM_CONFIG"):
        return Path(given)
    return config_folder(environ) / "config.yaml"


def config_folder(environ: Mapping[str, str]) -> Path:
    """What is this user's own, in all clusters."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".config")
    return Path(base) / "podium"


def contexts(environ: Mapping[str, str]) -> Contexts:
    """All of the contexts file; none where there is no file. Raises `Invalid`."""
    return _read(config_path(environ))


def write_contexts(environ: Mapping[str, str], changed: Contexts) -> Path:
    """Replace the contexts file, for its owner's eyes alone: it holds tokens. Raises `Invalid`."""
    from io import StringIO

    from ruamel.yaml import YAML

    path, text = config_path(environ), StringIO()
    YAML(typ="safe", pure=True).dump(msgspec.to_builtins(changed), text)
    write_private(path, text.getvalue())
    return path


def _read(path: Path) -> Contexts:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Contexts()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid([Fault(path="", text=f"cannot read it: {error}", file=str(path))]) from None
    return parse_contexts(text, str(path))


def parse_contexts(text: str, file: str) -> Contexts:
    """The contexts written in `text`. Raises `Invalid` with the place in `file`."""
    from ruamel.yaml import YAML  # slow to import, and most machines have no such file
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(text)
        return msgspec.convert(document or {}, Contexts)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise Invalid([Fault(path="", text=error.problem or "not YAML", file=file, line=line)]) from None
    except YAMLError as error:
        raise Invalid([Fault(path="", text=str(error), file=file)]) from None
    except msgspec.ValidationError as error:
        raise Invalid([Fault(path="", text=str(error), file=file)]) from None
