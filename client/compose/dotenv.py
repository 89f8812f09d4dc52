"""Reads `.env` and `env_file` files: `NAME=value` lines with comments, quotes and `export`, as Compose writes them."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path

from client.compose.document import decode, read_bytes
from client.compose.interpolate import interpolated
from client.compose.report import Report
from client.compose.tree import Mark, Source, shown
from common.errors import Invalid

_NAME = re.compile(r"(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*(?P<assigned>[=:]?)")
_SINGLE = re.compile(r"'(?P<text>[^']*)'")
_DOUBLE = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"', re.DOTALL)
_AFTER_QUOTES = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|\Z)")
_LINE = re.compile(r"[^\n]*")
_BLANKS = re.compile(r"[ \t]*")
_END_OF_LINE = re.compile(r"\n")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read_variables(
    path: Path, name: str, environment: Mapping[str, str], report: Report, *, raw: bool = False
) -> dict[str, str]:
    """The variables of one file. A name without `=` is taken from `environment`, or left out when it is not there.

    Values without single quotes may use variables: of `environment` first, then of earlier lines. With `raw`, what
    follows the `=` is the value as it is. Malformed lines go to the report. Raises `Invalid` for an unreadable file.
    """
    text = decode(read_bytes(path, name), name).replace("\r\n", "\n")
    return _Reader(text, Source(name, path.parent), environment, report, raw).variables()


class _Reader:
    def __init__(self, text: str, source: Source, environment: Mapping[str, str], report: Report, raw: bool) -> None:
        self._text = text
        self._source = source
        self._environment = environment
        self._report = report
        self._raw = raw
        self._found: dict[str, str] = {}
        self._variables = ChainMap(dict(environment), self._found)
        self._place = 0
        self._line = 1

    def variables(self) -> dict[str, str]:
        while self._place < len(self._text):
            self._statement()
            self._take(_LINE)
            self._take(_END_OF_LINE)
        return self._found

    def _statement(self) -> None:
        self._take(_BLANKS)
        if self._place == len(self._text) or self._text[self._place] in "#\n":
            return
        line = self._line
        match = _NAME.match(self._text, self._place)
        if match is None:
            self._fault(line, "", f"{shown(self._rest())} is not a variable: write NAME=value")
            return
        self._place = match.end()
        name = match["name"]
        if not match["assigned"]:
            self._from_environment(line, name)
        elif self._raw:
            self._found[name] = self._take(_LINE)
        else:
            self._assign(line, name)

    def _from_environment(self, line: int, name: str) -> None:
        if rest := _COMMENT.sub("", self._rest()).strip():
            self._fault(line, name, f"{shown(rest)} follows a name without =: write NAME=value")
        elif name in self._environment:
            self._found[name] = self._environment[name]

    def _assign(self, line: int, name: str) -> None:
        self._take(_BLANKS)
        quote = self._text[self._place : self._place + 1]
        try:
            if quote in {"'", '"'}:
                self._found[name] = self._quoted(quote)
            else:
                plain = _COMMENT.sub("", self._take(_LINE)).strip()
                self._found[name] = self._expanded(line, name, plain)
        except Invalid as error:
            self._fault(line, name, str(error))

    def _quoted(self, quote: str) -> str:
        """A value in quotes, which may span lines; only double ones know escapes and variables."""
        line = self._line
        match = (_SINGLE if quote == "'" else _DOUBLE).match(self._text, self._place)
        if match is None:
            raise Invalid(f"the {quote} that opens the value in line {line} is never closed")
        self._advance(match.end())
        if _AFTER_QUOTES.match(self._text, self._place) is None:
            raise Invalid(f"{shown(self._rest())} follows the closing {quote}: only a comment may")
        text = match["text"]
        return text if quote == "'" else self._expanded(line, "", _ESCAPE.sub(_unescaped, text))

    def _expanded(self, line: int, name: str, text: str) -> str:
        def missing(variable: str) -> None:
            self._report.warn(
                Mark(self._source, line), name, f"variable {variable} is not set: an empty text takes its place"
            )

        return interpolated(text, self._variables, missing)

    def _rest(self) -> str:
        match = _LINE.match(self._text, self._place)
        assert match is not None
        return match[0]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._place)
        if match is None:
            return ""
        self._advance(match.end())
        return match[0]

    def _advance(self, end: int) -> None:
        self._line += self._text.count("\n", self._place, end)
        self._place = end

    def _fault(self, line: int, name: str, text: str) -> None:
        self._report.fault(Mark(self._source, line), name, text)


def _unescaped(match: re.Match[str]) -> str:
    """`\\$` stays a dollar sign that starts no variable; an unknown escape stays as it is written."""
    character = match[1]
    if character == "$":
        return "$$"
    if character in '"\\':
        return str(character)
    return _ESCAPES.get(character, match[0])
