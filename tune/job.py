"""The job that is tuned, with a setting of the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import conf
from data.config import build, to_plain
from data.errors import InputError
from trainers.config import JobConfig
from trainers.job import check_job
from tune.space import Parameter, Setting, Value, extremes, shown


@dataclass(frozen=True, kw_only=True)
class Base:
    """The words of `taxomix train` that all trials have."""

    words: tuple[str, ...]
    folder: Path = field(default_factory=Path.cwd)
    """Where the command was given: what relative paths are relative to."""

    @property
    def job(self) -> JobConfig:
        """The job without a setting. Its run's folder is that of the search."""
        return self.with_setting((), {})

    def with_setting(self, parameters: Sequence[Parameter], setting: Setting) -> JobConfig:
        """Raises InputError, which names the key, for a key that is none and a value that does not fit."""
        groups = conf.groups("train")
        values = {path: setting[parameter.name] for parameter in parameters for path in parameter.paths if parameter.name in setting}
        words = [f"{path[0]}={value}" for path, value in values.items() if len(path) == 1 and path[0] in groups]
        plain = conf.compose("train", [*self.words, *words])
        if not any(word.lstrip("+").startswith("cluster.workers=") for word in self.words):
            plain["cluster"]["workers"] = 1  # trials side by side use a machine better than the workers of one
        if not any(word.lstrip("+").startswith("loop.overlays=") for word in self.words):
            plain["loop"]["overlays"] = 0
        for path, value in values.items():
            if len(path) > 1 or path[0] not in groups:
                _set(plain, path, value)
        return build(JobConfig, plain)

    def check(self, parameters: Sequence[Parameter]) -> None:
        """Find out before the first trial whether every value fits. Raises InputError where one does not."""
        check_job(self.job)
        for parameter, value in extremes(parameters):
            try:
                check_job(self.with_setting(parameters, {parameter.name: value}))
            except InputError as error:
                raise InputError(f"space.{parameter.name}, at {shown(value)}: {error}") from None


def _set(plain: dict[str, Any], path: Sequence[str], value: Value) -> None:
    """Set a key that is there, or one of a mapping that is: whether it may be there is for `build` to say."""
    owner: Any = plain
    for place, part in enumerate(path[:-1]):
        if not isinstance(owner, Mapping) or owner.get(part) is None:
            raise InputError(
                f"space.{'.'.join(path)}: unknown key, expected one of `taxomix train`; {'.'.join(path[: place + 1])} is not there"
            )
        owner = owner[part]
    if not isinstance(owner, dict):
        raise InputError(f"space.{'.'.join(path)}: {'.'.join(path[:-1])} has no keys, expected a key of `taxomix train`; mend it")
    owner[path[-1]] = value


def value_of(plain: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands at a key; None where nothing does."""
    found: Any = plain
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def own_setting(base: Base, parameters: Sequence[Parameter]) -> dict[str, Value]:
    """What the job itself says of the parameters, as far as that lies in their ranges. Groups are known by their name."""
    plain, groups = to_plain(base.job), conf.groups("train")
    own: dict[str, Value] = {}
    for parameter in parameters:
        path = parameter.paths[0]
        value = value_of(plain, (*path, "name") if len(path) == 1 and path[0] in groups else path)
        if value is None and path[:2] == ("trainer", "weights"):
            value = 1.0  # of a term that is not named
        if parameter.range.has(value):
            own[parameter.name] = value
    return own
