"""Protocol buffers' text format, read without a schema, and what became of each field.

The grammar is that of the format's specification: nested messages in ``{ }`` or ``< >`` with or
without a colon before them, lists in ``[ ]``, commas or semicolons after a field, comments from ``#``
to the end of a line, strings in single or double quotes that continue one another, escapes, decimal,
octal and hexadecimal numbers, floats with an ``f`` behind them, ``inf`` and ``nan``, and names of
extensions in brackets. What a field may hold is known only to whoever reads it: :class:`Message`
gives each value by name and type, and lists in the end the values that nobody asked for.
:class:`FieldNotes` keeps what became of those that somebody did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardmine.errors import ConfigError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fF]?(?![\w.]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>[{}<>\[\]:,;./-])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL
)
_CLOSED_BY = {"{": "}", "<": ">"}
_TRUE, _FALSE = ("true", "True", "t"), ("false", "False", "f")
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word: a truth value, the name of an enumerated value, ``inf`` or ``nan``."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(slots=True, eq=False)
class Field:
    """A field as it stands in the file; ``taken`` once somebody has asked for it."""

    name: str
    value: Message | Word | str | int | float
    line: int
    taken: bool = False


@dataclass(slots=True, eq=False)
class Message:
    """Fields in the order of the file. ``path`` says where the message stands, for errors."""

    source: str
    path: str = ""
    fields: list[Field] = field(default_factory=list)

    def message(self, name: str) -> Message | None:
        """Return the message of that name, if there is one.

        Raises:
            ConfigError: it is no message, or is there twice.
        """
        found = self._single(name)
        if found is None:
            return None
        if not isinstance(found.value, Message):
            raise self._wrong(found, "a message in { }")
        return found.value

    def messages(self, name: str) -> list[Message]:
        """Return all messages of a repeated field."""
        found = []
        for each in self._all(name):
            if not isinstance(each.value, Message):
                raise self._wrong(each, "a message in { }")
            found.append(each.value)
        return found

    def number(self, name: str, default: float) -> float:
        """Return a finite number, or ``default`` where the field is not given."""
        found = self._single(name)
        return default if found is None else self._number(found)

    def count(self, name: str, default: int) -> int:
        """Return a whole number."""
        found = self._single(name)
        if found is None:
            return default
        value = self._number(found)
        if value != int(value):
            raise self._wrong(found, "a whole number")
        return int(value)

    def numbers(self, name: str) -> list[float]:
        """Return the numbers of a repeated field."""
        return [self._number(each) for each in self._all(name)]

    def flag(self, name: str, default: bool) -> bool:
        """Return a truth value."""
        found = self._single(name)
        if found is None:
            return default
        text = str(found.value)
        if text in (*_TRUE, "1"):
            return True
        if text in (*_FALSE, "0"):
            return False
        raise self._wrong(found, "true or false")

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return the name of an enumerated value; the format allows its number as well.

        Args:
            allowed: the names in the order of their numbers; the first is the default.
        """
        found = self._single(name)
        if found is None:
            return allowed[0]
        value = found.value
        if type(value) is int and 0 <= value < len(allowed):
            return allowed[value]
        if not isinstance(value, Word) or value.text not in allowed:
            raise self._wrong(found, f"one of {', '.join(allowed)}, without quotes")
        return value.text

    def text(self, name: str, default: str) -> str:
        """Return a string."""
        found = self._single(name)
        if found is None:
            return default
        if not isinstance(found.value, str):
            raise self._wrong(found, "a string in quotes")
        return found.value

    def only(self, what: str) -> tuple[str, Message]:
        """Return the one message in this message: which member of a choice was made.

        Raises:
            ConfigError: there is none, or several.
        """
        names = [each.name for each in self.fields]
        if len(names) != 1 or not isinstance(self.fields[0].value, Message):
            raise ConfigError(
                f"{self.source}: {self.path or what}: got {', '.join(names) or 'nothing'}, "
                f"wanted one {what}"
            )
        self.fields[0].taken = True
        return names[0], self.fields[0].value

    def left(self) -> Iterator[tuple[str, str, int]]:
        """Yield (path, value as text, line) of every value that nobody asked for."""
        for each in self.fields:
            path = f"{self.path}.{each.name}" if self.path else each.name
            if isinstance(each.value, Message):
                if not each.taken and not each.value.fields:
                    yield path, "{}", each.line
                yield from each.value.left()
            elif not each.taken:
                shown = repr(each.value) if isinstance(each.value, str) else str(each.value)
                yield path, shown, each.line

    def asked_for(self) -> Iterator[tuple[str, str]]:
        """Yield (path, value as text) of every value that somebody asked for."""
        for each in self.fields:
            if isinstance(each.value, Message):
                yield from each.value.asked_for()
            elif each.taken:
                yield f"{self.path}.{each.name}" if self.path else each.name, str(each.value)

    def _all(self, name: str) -> list[Field]:
        found = [each for each in self.fields if each.name == name]
        for each in found:
            each.taken = True
        return found

    def _single(self, name: str) -> Field | None:
        found = self._all(name)
        if len(found) > 1:
            raise ConfigError(
                f"{self.source}:{found[1].line}: {self.path or 'file'} has {name} twice; the first "
                f"stands in line {found[0].line}"
            )
        return found[0] if found else None

    def _number(self, found: Field) -> float:
        value = found.value
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise self._wrong(found, "a finite number")

    def _wrong(self, found: Field, wanted: str) -> ConfigError:
        got = "a message" if isinstance(found.value, Message) else repr(str(found.value))
        return ConfigError(
            f"{self.source}:{found.line}: {self.path}.{found.name}: got {got}, wanted {wanted}"
        )


def parse_protobuf_text(text: str, source: str) -> Message:
    """Read a message.

    Args:
        source: the name of the file, for errors.

    Raises:
        ConfigError: the text is not in the format; file and line are named.
    """
    return _Parser(text, source).parse()


class _Parser:
    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = list(self._split(text))
        self._at = 0

    def parse(self) -> Message:
        """Return the whole file as one message."""
        root = Message(self._source)
        self._fill(root, "", 0)
        return root

    def _split(self, text: str) -> Iterator[tuple[str, str, int]]:
        place, line = 0, 1
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise self._error(line, f"got {text[place : place + 12]!r}, which begins no value")
            kind = match.lastgroup or ""
            if kind != "space":
                yield kind, match.group(), line
            line += match.group().count("\n")
            place = match.end()

    def _fill(self, message: Message, closing: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._error(self._line(), f"messages lie more than {_DEEPEST} deep")
        while self._peek() != closing:
            self._field(message, depth)
        if closing:
            self._next(closing)

    def _field(self, message: Message, depth: int) -> None:
        line, name = self._line(), self._name()
        path = f"{message.path}.{name}" if message.path else name
        colon = self._accept(":")
        if self._accept("["):
            while not self._accept("]"):
                value = self._value(path, depth, colon=True)
                message.fields.append(Field(name, value, line))
                if self._peek() != "]":
                    self._next(",")
        else:
            message.fields.append(Field(name, self._value(path, depth, colon), line))
        if not self._accept(","):
            self._accept(";")

    def _name(self) -> str:
        kind, token, line = self._take()
        if kind == "word":
            return token
        if token != "[":
            raise self._error(line, f"got {token!r}, wanted the name of a field")
        parts = []
        while (following := self._take())[1] != "]":
            parts.append(following[1])
        return f"[{''.join(parts)}]"

    def _value(self, path: str, depth: int, colon: bool) -> Message | Word | str | int | float:
        kind, token, line = self._take()
        if token in _CLOSED_BY:
            inner = Message(self._source, path)
            self._fill(inner, _CLOSED_BY[token], depth + 1)
            return inner
        if not colon:
            raise self._error(line, f"{path}: got {token!r}, wanted ':' or '{{'")
        if kind == "string":
            parts = [_unescape(token)]
            while self._at < len(self._tokens) and self._tokens[self._at][0] == "string":
                parts.append(_unescape(self._take()[1]))
            return "".join(parts)
        if token == "-":
            kind, token, line = self._take()
            if kind == "word" and token.lower() in ("inf", "infinity", "nan"):
                return -float(token)
            if kind == "number":
                return -_number(token)
        elif kind == "number":
            return _number(token)
        elif kind == "word":
            return Word(token)
        raise self._error(line, f"{path}: got {token!r}, wanted a value")

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _line(self) -> int:
        place = min(self._at, len(self._tokens) - 1)
        return self._tokens[place][2] if self._tokens else 1

    def _take(self) -> tuple[str, str, int]:
        if self._at >= len(self._tokens):
            raise self._error(self._line(), "the file ends inside a message")
        self._at += 1
        return self._tokens[self._at - 1]

    def _accept(self, token: str) -> bool:
        found = self._peek() == token
        self._at += found
        return found

    def _next(self, token: str) -> None:
        _, got, line = self._take()
        if got != token:
            raise self._error(line, f"got {got!r}, wanted {token!r}")

    def _error(self, line: int, reason: str) -> ConfigError:
        return ConfigError(f"{self._source}:{line}: {reason}")


def _number(token: str) -> int | float:
    if token[:2].lower() == "0x":
        return int(token, 16)
    bare = token.rstrip("fF")
    if bare.isdigit() and bare == token:
        return (
            int(bare, 8)
            if len(bare) > 1 and bare[0] == "0" and set(bare) <= set("01234567")
            else int(bare)
        )
    return float(bare)


def _unescape(token: str) -> str:
    def one(match: re.Match[str]) -> str:
        """Return the character that an escape stands for."""
        for code in match.group(1), match.group(2), match.group(3):
            if code is not None:
                return chr(int(code, 16))
        if match.group(4) is not None:
            return chr(int(match.group(4), 8))
        return _ESCAPES.get(match.group(5), match.group(5))

    return _ESCAPE.sub(one, token[1:-1])


@dataclass(frozen=True, slots=True)
class FieldNote:
    """A field of the file: its path and value, and where it went or why it did not."""

    path: str
    value: str
    note: str

    def __str__(self) -> str:
        path = self.path.rstrip(".")
        return f"{path}: {self.value} -> {self.note}" if self.value else f"{path} -> {self.note}"


@dataclass(eq=False)
class FieldNotes:
    """What became of each field that was asked for: carried over, the same anyway, or left out."""

    carried: list[FieldNote] = field(default_factory=list)
    same: list[FieldNote] = field(default_factory=list)
    left_out: list[FieldNote] = field(default_factory=list)

    def carry(self, message: Message, name: str, value: Any, note: str) -> None:
        """Note where the value went."""
        self.carried.append(FieldNote(f"{message.path}.{name}", str(value), note))

    def keep(self, message: Message, name: str, value: Any, note: str) -> None:
        """Note that the value says what is done anyway."""
        self.same.append(FieldNote(f"{message.path}.{name}", str(value), note))

    def leave(self, message: Message, name: str, value: Any, note: str) -> None:
        """Note why the value is not carried over."""
        self.left_out.append(FieldNote(f"{message.path}.{name}", str(value), note))

    def pass_over(self, message: Message, note: str, *names: str) -> None:
        """Keep what is given of these fields; none of them means anything here."""
        for each in message.fields:
            if each.name in names:
                each.taken = True
                self.keep(message, each.name, each.value, note)


def required(message: Message, name: str) -> Message:
    """Return the message in a field.

    Raises:
        ConfigError: there is none.
    """
    found = message.message(name)
    if found is None:
        raise ConfigError(f"{message.path} has no {name}")
    return found
