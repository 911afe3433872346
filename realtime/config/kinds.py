"""What a setting may be: in words for people, and from a text outside of TOML.

Law: the words are derived from the type that decides, so that an error and the reference never promise another range
than the one that is enforced.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec.inspect import BoolType, DictType, Field, FloatType, IntType, ListType, LiteralType, Metadata, StrType, StructType, Type

from realtime.config.settings import Config

SECRET = "identity.tokens"  # whose values no message and no listing shows
# Of these no message repeats a refused value: it may be one with a password in it, where none is allowed.
UNREPEATED = ("redis.url", "redis.sentinels", "redis.nodes")


class Setting(NamedTuple):
    """One setting."""

    section: str
    key: str
    default: Any  # as TOML has it: no Structs
    why: str
    kind: Type  # what msgspec makes of its type; with its title, where a text has one
    type: Any  # its type, for msgspec.convert

    @property
    def name(self) -> str:
        """section.key."""
        return f"{self.section}.{self.key}"

    @property
    def is_text(self) -> bool:
        """Whether outside of a file it needs no quotes."""
        return isinstance(_bare(self.kind), StrType | LiteralType)


class Section(NamedTuple):
    """One section, with its settings in order."""

    name: str
    why: str
    settings: dict[str, Setting]


@cache
def sections() -> dict[str, Section]:
    """Return all sections by name."""
    found = {}
    for field in _fields(msgspec.inspect.type_info(Config)):
        assert isinstance(field.type, StructType)
        defaults = msgspec.to_builtins(field.type.cls())
        types = {one.name: one.type for one in msgspec.structs.fields(field.type.cls)}
        settings = {}
        for one in _fields(field.type):
            assert isinstance(one.type, Metadata), f"{field.name}.{one.name} lacks its reason"
            words = one.type.extra_json_schema or {}
            kind = one.type if "title" in words else one.type.type
            settings[one.name] = Setting(field.name, one.name, defaults[one.name], words["description"], kind, types[one.name])
        found[field.name] = Section(field.name, (field.type.cls.__doc__ or "").strip(), settings)
    return found


def _fields(kind: Type) -> Iterator[Field]:
    assert isinstance(kind, StructType)
    yield from kind.fields


def _bare(kind: Type) -> Type:
    return kind.type if isinstance(kind, Metadata) else kind


# In words


def type_word(kind: Type) -> str:
    """Return what kind of value it is, in a word or two."""
    match _bare(kind):
        case BoolType():
            return "boolean"
        case IntType():
            return "integer"
        case FloatType():
            return "number"
        case LiteralType() | StrType():
            return "text"
        case ListType():
            return "list of texts"
        case _:
            return "table"


def range_words(kind: Type) -> str:
    """Return which values of the kind are allowed; nothing where all are."""
    match kind:
        case BoolType():
            return "true or false"
        case LiteralType():
            return ", ".join(str(value) for value in kind.values)
        case IntType() | FloatType():
            if kind.gt is not None:
                return f"above {kind.gt:,}, at most {kind.le:,.0f}"
            return f"{kind.ge:,} to {kind.le:,.0f}"
        case Metadata(extra_json_schema={"title": str() as title}):
            return title
        case ListType(item_type=Metadata(extra_json_schema={"title": str() as title})):
            return f"each {title}"
        case DictType():
            return "token = {user, groups, publish}"
        case _:
            return ""


def allowed(kind: Type) -> str:
    """Return a sentence's part that says what is allowed: `an integer from 0 to 65,535 is expected`."""
    match kind:
        case BoolType():
            return "true or false is expected"
        case LiteralType():
            return f"allowed are {range_words(kind)}"
        case IntType():
            return f"an integer from {range_words(kind)} is expected"
        case FloatType():
            return f"a number {'' if kind.gt is not None else 'from '}{range_words(kind)} is expected"
        case StrType():
            return "a text is expected"
        case Metadata():
            return f"{range_words(kind)}, is expected"
        case ListType():
            each = range_words(kind)
            return f"a list of texts{', ' if each else ''}{each}, is expected"
        case _:
            return f"a table of {range_words(kind)} is expected"


# From a text


def parse(setting: Setting, text: str) -> Any:
    """Return the value that a text of the environment or of `--set` stands for, as TOML has it.

    A text needs no quotes, and a list of texts no brackets: `a,b`. What is no TOML value comes back as the text
    that it is, for `convert` to refuse.
    """
    if isinstance(setting.kind, ListType) and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    value = _toml_value(text)
    if setting.is_text:
        return value if isinstance(value, str) else text
    return text if value is None else value


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return None
    return table["value"] if len(table) == 1 else None  # a text of several lines could set other keys


def convert(setting: Setting, value: Any) -> Any:
    """Return the value as the section's Struct holds it; raise `ValueError` that says what is allowed."""
    try:
        return msgspec.convert(value, setting.type)
    except msgspec.ValidationError as error:
        if setting.name == SECRET:
            raise ValueError(f"{allowed(setting.kind)}; {error}") from None
        if setting.name in UNREPEATED:
            raise ValueError(allowed(setting.kind)) from None
        shown = repr(value)
        raise ValueError(f"{allowed(setting.kind)}, not {shown if len(shown) <= 60 else shown[:57] + '...'}") from None
