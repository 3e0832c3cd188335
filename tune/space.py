"""What is searched: parameters, each with its range and the keys of the config that it sets."""

import ast
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.errors import InputError

Value = bool | int | float | str

Setting = Mapping[str, Value]
"""Name of a parameter -> its value."""

FORMS = {
    "uniform": "uniform(0.1, 0.9)",
    "loguniform": "loguniform(1e-5, 1e-2)",
    "int": "int(1, 8)",
    "logint": "logint(1, 1000)",
    "choice": "choice(adam, sgd)",
}
"""Name of a range -> an example. Both ends of all ranges are part of them."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers from `low` to `high`, both included; whole ones with `whole`, and with `log` their logarithms are drawn uniformly."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{self.low:g} to {self.high:g} found, expected numbers that rise")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.low:g} found as the least of a logarithmic range, expected more than 0")

    def has(self, value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high and (not self.whole or float(value).is_integer())

    def at(self, part: float) -> int | float:
        """The value at `part` of the way, 0..1."""
        if self.log:
            value = math.exp(math.log(self.low) + part * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + part * (self.high - self.low)
        value = min(max(value, self.low), self.high)  # rounding would lead beyond the ends
        return round(value) if self.whole else value

    def points(self, number: int) -> tuple[int | float, ...]:
        """So many values, evenly spaced, both ends among them; fewer where there are no more whole ones."""
        parts = [0.5] if number == 1 else [place / (number - 1) for place in range(number)]
        return tuple(dict.fromkeys(self.at(part) for part in parts))


@dataclass(frozen=True, kw_only=True)
class Choice:
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(set(map(repr, self.values))) < 2 or len(set(map(repr, self.values))) < len(self.values):
            raise ValueError(f"{', '.join(map(str, self.values)) or 'nothing'} found, expected two different values or more")

    def has(self, value: Any) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.values)

    def at(self, part: float) -> Value:
        return self.values[min(int(part * len(self.values)), len(self.values) - 1)]

    def points(self, number: int) -> tuple[Value, ...]:
        return self.values


Range = Numbers | Choice


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """`name` is what it is called in reports; `paths` are the keys that get its value, each as its parts."""

    name: str
    range: Range
    paths: tuple[tuple[str, ...], ...]


def parse_word(word: str) -> Parameter:
    """The parameter of a word such as space.optim.lr=loguniform(1e-5,1e-2). Raises InputError, which names the key."""
    key, _, text = word.removeprefix("space.").partition("=")
    if not re.fullmatch(r"[\w./-]+", key):
        raise InputError(
            f"space.{key}: {text!r} found, expected a key and its range; write for example space.optim.lr={FORMS['loguniform']}"
        )
    return Parameter(name=key, range=parse_range(text, f"space.{key}"), paths=(tuple(key.split(".")),))


def parse_range(text: str, key: str) -> Range:
    """Of `FORMS`. Raises InputError, which names `key`."""
    found = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", text, flags=re.DOTALL)
    if found is None or found[1] not in FORMS:
        raise InputError(f"{key}: {text} found, expected {', '.join(FORMS.values())}; mend it")
    form, values = found[1], [_literal(part) for part in found[2].split(",") if part.strip()]
    try:
        if form == "choice":
            return Choice(values=tuple(values))
        if len(values) != 2 or any(isinstance(value, (bool, str)) for value in values):
            raise ValueError(f"({found[2]}) found, expected two numbers")
        low, high = (float(value) for value in values)
        whole = form.endswith("int")
        if whole and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"({found[2]}) found, expected whole numbers")
        return Numbers(low=low, high=high, whole=whole, log=form.startswith("log"))
    except ValueError as error:
        raise InputError(f"{key}: {error}, such as {FORMS[form]}; mend it") from None


def _literal(text: str) -> Value:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float, str)) else text


Sampler = Literal["tpe", "random", "grid"]


def grid(parameters: Sequence[Parameter], points: int) -> Iterator[dict[str, Value]]:
    """All combinations, the last parameter changing fastest."""
    names = [parameter.name for parameter in parameters]
    for values in itertools.product(*(parameter.range.points(points) for parameter in parameters)):
        yield dict(zip(names, values, strict=True))


def extremes(parameters: Sequence[Parameter]) -> Iterator[tuple[Parameter, Value]]:
    """Of each parameter by itself the values that a check of the config has to see: both ends, or every choice."""
    for parameter in parameters:
        for value in parameter.range.points(2):
            yield parameter, value


def shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
