"""The config files: one primary file per subcommand, one folder per group of choices, one file a choice.

`compose` is the only code that speaks Hydra; what it returns is plain data.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import InputError

FOLDER = Path(__file__).parent
GLOBAL = "# @package _global_"
"""First line of a choice whose keys are not below its group, but at the top."""


def compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of conf/NAME.yaml with Hydra's key=value words applied, as a plain mapping. With the word config=FILE it is that of the
    file, which a run or a search wrote, in place of conf/NAME.yaml.

    Raises InputError for an unknown key or choice, a word that is no override, and a key that must be given and is not.
    """
    for word in overrides:
        if not re.match(r"[+~]{0,2}[\w./@-]+(=|$)", word) or ("=" not in word and not word.startswith("~")):
            raise InputError(f"{word}: not a key=value word; write for example seed=1, and see `taxomix {name} --help` for the keys")
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            overrides = [_quoted(word) for word in overrides]
            files = [word for word in overrides if word.startswith("config=")]
            if files:
                overrides.remove(files[-1])
                plain = OmegaConf.to_container(_of_file(files[-1], name, overrides), resolve=True, throw_on_missing=True)
                assert isinstance(plain, dict)
                return {str(key): value for key, value in plain.items()}
            whole = [word for word in overrides if re.fullmatch(r"[\w.]+=(\{.*\}|\[.*\])", word, flags=re.DOTALL)]
            config = hydra_compose(name, [word for word in overrides if word not in whole])
            for word in whole:
                _replace(config, word)
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(_one_line(error, name, overrides)) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _of_file(word: str, name: str, overrides: Sequence[str]) -> DictConfig:
    """The content of a file, with words applied: choices of groups first, as Hydra does."""
    path = Path(str(OverridesParser.create().parse_override(word).value()))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"config={path}: {reason}, expected a config.yaml that a run wrote; check the path") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"config={path}: no keys and values found, expected a config.yaml that a run wrote; check the path")
    config = OmegaConf.create(content)
    given_words = [OverridesParser.create().parse_override(text) for text in overrides]
    for given in sorted(given_words, key=lambda it: it.key_or_group not in groups(name)):
        key, value = given.key_or_group, given.value()
        if key in groups(name) and isinstance(value, str):
            if value not in choices(key):
                raise InputError(f"{key}={value}: no such choice, expected one of {', '.join(choices(key))}")
            chosen = OmegaConf.load(FOLDER / key / f"{value}.yaml")
            if (FOLDER / key / f"{value}.yaml").read_text().startswith(GLOBAL):
                raise InputError(f"{key}={value}: not with config=, which says all that a {key} says; give one of them")
            config[key] = chosen
            continue
        owner = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        last = key.rpartition(".")[2]
        if not isinstance(owner, DictConfig) or (last not in owner and not given.is_add()):
            raise HydraException(f"Could not override '{key}'")
        if given.is_delete():
            del owner[last]
        else:
            owner[last] = value
    return config


def _quoted(word: str) -> str:
    """The word with its value in quotes where Hydra's grammar would take offence at it, as at many a path."""
    try:
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override():
            return word
    except HydraException:
        pass
    key, equals, value = word.partition("=")
    if value[:1] in ("{", "["):
        return word
    return key + equals + "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _replace(config: DictConfig, word: str) -> None:
    """A mapping or list given for a key replaces what is in the file; Hydra would merge mappings, and refuse new keys and a list there."""
    key = word.split("=", 1)[0]
    parent, _, last = key.rpartition(".")
    owner = OmegaConf.select(config, parent) if parent else config
    if not isinstance(owner, DictConfig) or last not in list(owner.keys()):  # `in` denies a key that is ???
        raise HydraException(f"Could not override '{key}'")
    owner[last] = OverridesParser.create().parse_override(word).value()


def _one_line(error: Exception, name: str, overrides: Sequence[str]) -> str:
    text = " ".join(str(error).split())
    see = f"; see `taxomix {name} --help`"
    if "Missing mandatory value" in text:
        key = getattr(error, "full_key", None) or text
        return f"{key}: missing; give {key}=...{see}"
    if re.search(r"You must specify '(\w+)'", text):
        group = re.findall(r"You must specify '(\w+)'", text)[0]
        return f"{group}: missing; give {' or '.join(f'{group}={choice}' for choice in choices(group))}{see}"
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return f"{unknown[1]}: unknown key{_inside_of(unknown[1], name, overrides) or _similar(unknown[1], name)}{see} for all keys"
    choice = re.search(r"(?:Could not find|In '[^']*': Could not find) '([\w-]+)/([^']+)' (?:Available options in '[^']*': )?(.*)", text)
    if choice:
        return f"{choice[1]}={choice[2]}: no such choice, expected one of {', '.join(choices(choice[1]))}"
    return f"{text}{see}"


def _similar(key: str, name: str) -> str:
    """The key of conf/NAME.yaml's defaults that looks most like `key`."""
    last = key.split(".")[-1]
    lines = [line.split(":")[0].strip() for line in describe(name).splitlines() if ":" in line]
    close = [line for line in difflib.get_close_matches(last, lines, n=2) if line != last]
    return f" (did you mean {key.removesuffix(last)}{close[0]}?)" if close else ""


def _inside_of(key: str, name: str, overrides: Sequence[str]) -> str:
    """Where `key` lies in a mapping that is empty or null so far: how to give the whole of that."""
    chosen = [word for word in overrides if word.partition("=")[0].lstrip("+") in groups(name)]
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            config = hydra_compose(name, chosen)
    except (HydraException, OmegaConfBaseException):
        return ""
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        parent, owner = ".".join(parts[:length]), OmegaConf.select(config, ".".join(parts[: length - 1])) if length > 1 else config
        if isinstance(owner, DictConfig) and parts[length - 1] in list(owner.keys()):
            if owner[parts[length - 1]] not in (None, {}):
                return ""
            value = next((word.partition("=")[2] for word in overrides if word.lstrip("+").startswith(f"{key}=")), "VALUE")
            return f", {parent} is empty; give the whole of it: '{parent}={_nested(parts[length:], value)}'"
    return ""


def _nested(parts: Sequence[str], value: str) -> str:
    return f"{{{parts[0]}: {_nested(parts[1:], value)}}}" if parts else value


def groups(name: str) -> list[str]:
    """The groups of conf/NAME.yaml."""
    return re.findall(r"^ +- (\w+): ", (FOLDER / f"{name}.yaml").read_text(), flags=re.MULTILINE)


def recipe_hint(error: str, overrides: Sequence[str]) -> str:
    """What to do about a key that is unknown since other words replaced what a recipe sets it for; empty where it is no recipe's."""
    recipe = next((word.partition("=")[2] for word in overrides if word.startswith("recipe=")), "")
    key, _, text = error.partition(": ")
    if not text.startswith("unknown key") or recipe not in choices("recipe"):
        return ""
    content = OmegaConf.load(FOLDER / "recipe" / f"{recipe}.yaml")
    owner = OmegaConf.select(content, key.rpartition(".")[0])
    is_set = isinstance(owner, DictConfig) and key.rpartition(".")[2] in owner
    return f"; it comes from recipe={recipe}: take it away with the word ~{key}" if is_set else ""


def choices(group: str) -> list[str]:
    """The choices of a group, such as `cluster`."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


def describe(name: str) -> str:
    """The config file of a subcommand and of every choice of its groups, comments included: the help text."""
    text = (FOLDER / f"{name}.yaml").read_text()
    parts = [text.rstrip()]
    for group in groups(name):
        for choice in choices(group):
            lines = (FOLDER / group / f"{choice}.yaml").read_text().rstrip().splitlines()
            is_global = lines[0] == GLOBAL
            keys = "keys at the top" if is_global else f"keys below {group}."
            parts.append(f"\n{group}={choice}, {keys}:\n" + "\n".join("  " + line for line in lines[is_global:]))
    return "\n".join(parts)
