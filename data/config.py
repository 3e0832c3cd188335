"""From plain mappings (a composed config, a checkpoint) to frozen dataclasses, once, with errors that name the key."""

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data.errors import FieldError, InputError

T = TypeVar("T")


def build(cls: type[T], values: Any, *, key: str = "") -> T:
    """Make a `cls` (a dataclass) of `values`. `key` is the dotted key of `values`, for errors.

    Fields may be bool, int, float, str, Path, None, Literal, tuple[X, ...], tuple[X, Y], dict[str, X], dataclasses, and
    unions of these; a union of dataclasses is chosen by their `name` fields, which are Literals. Raises InputError for a
    key that is unknown or missing and for a value of another type. Checks between fields are for `__post_init__`,
    which raises FieldError.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{key}: {values!r} found, expected keys and values")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise InputError(
                f"{_join(key, str(name))}: unknown key{_similar(str(name), fields)}; expected one of {', '.join(sorted(fields))}"
            )
    arguments = {name: _convert(hints[name], value, _join(key, name)) for name, value in values.items()}
    for name, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and name not in arguments:
            raise InputError(f"{_join(key, name)}: missing; give {_join(key, name)}=...")
    try:
        return cls(**arguments)
    except FieldError as error:
        raise InputError(_join(key, str(error))) from None


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as a mapping of plain values, which `build` turns back into the same dataclass."""
    plain = _plain(config)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, key)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, key=key)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            raise InputError(f"{key}: {value!r} found{_similar(str(value), map(str, get_args(hint)))}, expected one of {choices}")
        return value
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, key)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{key}: {value!r} found, expected keys and values such as {{a: 1, b: 2}}")
        return {str(name): _convert(get_args(hint)[1], entry, _join(key, str(name))) for name, entry in value.items()}
    return _convert_scalar(hint, value, key)


def _convert_union(choices: Sequence[Any], value: Any, key: str) -> Any:
    if value is None and type(None) in choices:
        return None
    named = {get_args(get_type_hints(choice)["name"])[0]: choice for choice in choices if _has_literal_name(choice)}
    if named and isinstance(value, Mapping):
        name = value.get("name")
        if name not in named:
            raise InputError(f"{_join(key, 'name')}: {name!r} found{_similar(str(name), named)}, expected one of {', '.join(named)}")
        return build(named[name], value, key=key)
    errors = []
    for choice in choices:
        if choice is type(None) or (dataclasses.is_dataclass(choice) and not isinstance(value, Mapping)):
            continue
        try:
            return _convert(choice, value, key)
        except InputError as error:
            errors.append(error)
    # The last choice is the most general one, so its words fit best.
    raise errors[-1] if errors else InputError(f"{key}: {value!r} found, which does not fit")


def _has_literal_name(choice: Any) -> bool:
    return dataclasses.is_dataclass(choice) and get_origin(get_type_hints(choice).get("name")) is Literal


def _convert_tuple(entries: Sequence[Any], value: Any, key: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{key}: {value!r} found, expected a list such as [1, 2]")
    hints = [entries[0]] * len(value) if entries[-1] is Ellipsis else list(entries)
    if len(hints) != len(value):
        raise InputError(f"{key}: {list(value)} found, expected {len(hints)} values")
    return tuple(_convert(hint, entry, f"{key}[{i}]") for i, (hint, entry) in enumerate(zip(hints, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, key: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # run.name=7 is a name
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise InputError(f"{key}: {value!r} found, expected {_EXPECTED.get(hint, getattr(hint, '__name__', str(hint)))}")


_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _similar(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
