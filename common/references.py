"""The grammar of image references, `[domain/]path[:tag][@digest]`, as the distribution project defines it.

Decides whether a text names an image and what its parts are; never asks a registry or an engine. Everything that puts
a reference into a URL or an engine's request goes through here first: an unchecked one can name any other resource.
(Source: github.com/distribution/reference, `reference.go` and `normalize.go`.)
"""

from __future__ import annotations

import re

import msgspec

from common.errors import Invalid

NAME_CHARACTERS = 255
"""Longest repository name (domain and path) that registries accept."""

_DEFAULT_DOMAIN = "docker.io"
_OFFICIAL_PREFIX = "library/"

_HOST = r"(?:[a-zA-Z0-9]+(?:-+[a-zA-Z0-9]+)*(?:\.[a-zA-Z0-9]+(?:-+[a-zA-Z0-9]+)*)*|\[[a-fA-F0-9:]+\])"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = re.compile(rf"{_HOST}(?::[0-9]+)?")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128}")
_IMAGE_ID = re.compile(r"[a-f0-9]{64}")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A checked reference. `str()` gives it back as it was written."""

    name: str
    """Domain and path as written, e.g. `shop` or `registry.example:5000/team/shop`."""
    domain: str
    """Where it would be pulled from; `docker.io` when none was written."""
    path: str
    """Path at that domain; `library/` stands before a plain name of Docker Hub."""
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.name}{':' + self.tag if self.tag else ''}{'@' + self.digest if self.digest else ''}"

    @property
    def canonical(self) -> str:
        """The one spelling of this image: two references with equal ones mean the same."""
        tag = self.tag or ("" if self.digest else "latest")
        return f"{self.domain}/{self.path}{':' + tag if tag else ''}{'@' + self.digest if self.digest else ''}"


def parse_reference(text: str) -> Reference:
    """The parts of `text`. Raises `Invalid`, naming the part that is wrong and what is allowed there."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, f"digest `{digest}` must be `sha256:` and 64 lower-case hexadecimal digits")
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _wrong(text, f"tag `{tag}` must be 1 to 128 of A-Z a-z 0-9 _ . - and not begin with . or -")
    domain, path = _split_domain(name)
    _check_name(text, name, domain, path)
    if not domain:
        domain, path = _DEFAULT_DOMAIN, path if "/" in path else _OFFICIAL_PREFIX + path
    return Reference(name=name, domain=domain, path=path, tag=tag or "", digest=digest)


def _split_tag(rest: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; one before it belongs to the domain's port."""
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    return head + slash + last, tag if colon else None


def _split_domain(name: str) -> tuple[str, str]:
    """The first component is a domain when it could not be a path component, or is `localhost`."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return "", name


def _check_name(text: str, name: str, domain: str, path: str) -> None:
    if not name:
        raise _wrong(text, "the name is missing")
    if len(name) > NAME_CHARACTERS:
        raise _wrong(text, f"the name has {len(name)} characters; at most {NAME_CHARACTERS} are allowed")
    if domain and not _DOMAIN.fullmatch(domain):
        raise _wrong(text, f"registry `{domain}` must be a host name or address, with `:port` if need be")
    if not _PATH.fullmatch(path):
        raise _wrong(
            text,
            f"name `{path}` must be lower-case letters and digits, separated by single . or _ or __ or dashes, "
            "in parts joined by /",
        )
    if not domain and _IMAGE_ID.fullmatch(path):
        raise _wrong(text, "64 hexadecimal digits are an image id, not a name; give the image a tag and use that")


def _wrong(text: str, reason: str) -> Invalid:
    shown = text if len(text) <= NAME_CHARACTERS else text[:NAME_CHARACTERS] + "..."
    return Invalid(f"image reference {shown!r} is not valid: {reason}")
