"""The config files: one primary file per subcommand, one folder per group of choices, one file a choice.

`compose` is the only code that speaks Hydra; what it returns is plain data.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import InputError

FOLDER = Path(__file__).parent


def compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of conf/NAME.yaml with Hydra's key=value words applied, as a plain mapping.

    Raises InputError for an unknown key or choice, a word that is no override, and a key that must be given and is not.
    """
    for word in overrides:
        if not re.match(r"[+~]{0,2}[\w./@-]+(=|$)", word) or ("=" not in word and not word.startswith("~")):
            raise InputError(f"{word}: not a key=value word; write for example seed=1, and see `taxomix {name} --help` for the keys")
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            overrides = [_quoted(word) for word in overrides]
            whole = [word for word in overrides if re.fullmatch(r"[\w.]+=(\{.*\}|\[.*\])", word, flags=re.DOTALL)]
            config = hydra_compose(name, [word for word in overrides if word not in whole])
            for word in whole:
                _replace(config, word)
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(_one_line(error, name)) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


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


def _one_line(error: Exception, name: str) -> str:
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
        return f"{unknown[1]}: unknown key{_similar(unknown[1], name)}{see} for all keys"
    choice = re.search(r"(?:Could not find|In '[^']*': Could not find) '([\w-]+)/([^']+)' (?:Available options in '[^']*': )?(.*)", text)
    if choice:
        return f"{choice[1]}={choice[2]}: no such choice, expected one of {', '.join(choices(choice[1]))}"
    return f"{text}{see}"


def _similar(key: str, name: str) -> str:
    """The key of conf/NAME.yaml's defaults that looks most like `key`."""
    last = key.split(".")[-1]
    lines = [line.split(":")[0].strip() for line in describe(name).splitlines() if ":" in line]
    close = difflib.get_close_matches(last, lines, n=1)
    return f" (did you mean {key.removesuffix(last)}{close[0]}?)" if close else ""


def choices(group: str) -> list[str]:
    """The choices of a group, such as `cluster`."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


def describe(name: str) -> str:
    """The config file of a subcommand and of every choice of its groups, comments included: the help text."""
    text = (FOLDER / f"{name}.yaml").read_text()
    parts = [text.rstrip()]
    for group in re.findall(r"^ +- (\w+): ", text, flags=re.MULTILINE):
        for choice in choices(group):
            lines = (FOLDER / group / f"{choice}.yaml").read_text().rstrip()
            parts.append(f"\n{group}={choice}, keys below {group}.:\n" + "\n".join("  " + line for line in lines.splitlines()))
    return "\n".join(parts)
