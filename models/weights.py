"""Starting a model from weights that were trained before: which tensors of a file fit where, and a report that leaves nothing out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError
from models.model import SegmentationModel
from models.weight_names import Form

LINES = 12
"""Groups of names that a report lists of each kind."""

COUNTER = "num_batches_tracked"
"""Older files lack it, and nothing here reads it: no report misses it."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each tensor of a file, and of each of the model."""

    source: str
    form: str
    """Whose names the file has, and where in it the tensors are."""
    loaded: Mapping[str, str]
    """Name in the model -> name in the file."""
    skipped: Mapping[str, str]
    """Name in the file -> why it is not used."""
    missing: tuple[str, ...]
    """Names in the model that nothing of the file fits: they stay as they were initialised."""
    num_parameters: tuple[int, int]
    """Loaded, of all: numbers, not tensors."""
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        tensors = f"{len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors"
        numbers = f"{self.num_parameters[0]:,} of {self.num_parameters[1]:,} parameters"
        return f"{tensors} ({numbers}) from {self.source}, named as in {self.form}; {len(self.skipped)} tensors of it are not used"

    @property
    def text(self) -> str:
        """The summary, and below it the names, those of a module as one where it is so with all of them."""
        file_names, names = [*self.loaded.values(), *self.skipped], [*self.loaded, *self.missing]
        skipped = []
        # The part before a colon is the same for many tensors, what follows says more of one.
        for kind in dict.fromkeys(reason.partition(":")[0] for reason in self.skipped.values()):
            reasons = {name: reason for name, reason in self.skipped.items() if reason.partition(":")[0] == kind}
            skipped += [f"{group}: {reasons[first]}" for group, first in _groups(reasons, file_names)]
        missing = [group for group, _ in _groups(self.missing, names)]
        lines = [*_lines("not used", skipped), *_lines("as initialised", missing), *(f"  note: {note}" for note in self.notes)]
        return "\n".join([f"weights: {self.summary}", *lines])


def _lines(title: str, groups: Sequence[str]) -> Iterator[str]:
    yield from (f"  {title}: {group}" for group in groups[:LINES])
    if len(groups) > LINES:
        yield f"  {title}: and {len(groups) - LINES} groups of names more"


def _groups(chosen: Iterable[str], all_names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """`chosen` names, of a module as one where all of it are chosen: the text, and the first of the names."""
    chosen = list(chosen)
    prefixes = {name: [name.rsplit(".", cut)[0] for cut in range(name.count("."), -1, -1)] for name in all_names}
    foreign = {prefix for name in prefixes.keys() - set(chosen) for prefix in prefixes[name]}
    groups: dict[str, list[str]] = {}
    for name in chosen:
        groups.setdefault(next(prefix for prefix in prefixes[name] if prefix not in foreign), []).append(name)
    for group, names in groups.items():
        yield (group if names == [group] else f"{group} ({len(names)} tensor{'s' if len(names) > 1 else ''})"), names[0]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Tensors of a file by the names of a model, all of the right shapes."""

    tensors: Mapping[str, Tensor]
    report: LoadReport

    @torch.no_grad()
    def load_into(self, model: SegmentationModel) -> None:
        state = model.state_dict()
        for name, value in self.tensors.items():
            state[name].copy_(value)


@dataclass(frozen=True, kw_only=True)
class _Match:
    form: Form
    where: str
    """Keys that lead to the tensors in the file."""
    loaded: dict[str, str]
    skipped: dict[str, str]
    num_placed: int
    """Names of the file that the model has a place for, whatever its shape."""
    tensors: Mapping[str, Tensor]


def fit_weights(model: SegmentationModel, forms: Sequence[Form], content: Any, source: str, normalise: str | None = None) -> Fit:
    """The tensors of `content`, a state dict or a mapping that holds one somewhere, that fit into `model`, by that of `forms` which
    most of them fit by; the first of those that are alike. The model, which has this model.normalise, is not changed.

    Raises InputError where that is none, or where a tensor holds what is no number.
    """
    state = model.state_dict()
    places = list(_state_dicts(content))
    if not places:
        raise InputError(f"{source}: no tensors with names found, expected a state dict; check the file")
    matches = [_match(state, form, where, tensors) for where, tensors in places for form in forms]
    best = max(matches, key=lambda match: (len(match.loaded), match.num_placed))
    if not best.loaded:
        name, reason = next(iter(best.skipped.items()), ("no tensor", "nothing to load"))
        tried = ", ".join(form.name for form in forms)
        raise InputError(f"{source}: none of its tensors fits this model ({name}: {reason}), expected names of {tried}; check model.name")
    for key in best.loaded.values():
        if not best.tensors[key].float().sum().isfinite():  # one pass, and no mask
            raise InputError(f"{source}: {key} holds values that are no numbers, expected trained weights; choose another file")
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    report = LoadReport(
        source=source,
        form=best.form.name + (f" (under {best.where})" if best.where else ""),
        loaded=best.loaded,
        skipped=best.skipped,
        missing=tuple(name for name in state if name not in best.loaded and not name.endswith(COUNTER)),
        num_parameters=(sum(parameters.get(name, 0) for name in best.loaded), sum(parameters.values())),
        notes=tuple(_notes(best, state, normalise)),
    )
    return Fit(tensors={name: best.tensors[key] for name, key in best.loaded.items()}, report=report)


def _state_dicts(content: Any, where: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping in `content` that has tensors as values, with the keys that lead to it."""
    if not isinstance(content, Mapping):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from _state_dicts(value, f"{where}.{key}" if where else key)


def _match(state: Mapping[str, Tensor], form: Form, where: str, tensors: Mapping[str, Tensor]) -> _Match:
    loaded: dict[str, str] = {}
    skipped: dict[str, str] = {}
    refused: dict[str, str] = {}
    num_placed = 0
    for key, value in tensors.items():
        place = form.place(_bare(key))
        names = [name for name in place.names if name in state]
        for name in names:
            if name in loaded:
                skipped[key] = f"named twice: as {loaded[name]} too"
            elif state[name].shape == value.shape:
                loaded[name] = key
            else:
                refused[name.rpartition(".")[0]] = key
                skipped[key] = f"another shape: {tuple(value.shape)} found, expected {tuple(state[name].shape)}"
        if not names:
            skipped[key] = place.reason
        num_placed += bool(names)
    for name in [name for name in loaded if name.rpartition(".")[0] in refused]:  # a layer is taken whole or not at all
        key = loaded.pop(name)
        skipped.setdefault(key, f"another shape: that of {refused[name.rpartition('.')[0]]}")
    skipped = {key: reason for key, reason in skipped.items() if key not in set(loaded.values())}
    return _Match(form=form, where=where, loaded=loaded, skipped=skipped, num_placed=num_placed, tensors=tensors)


def _bare(key: str) -> str:
    """Without what DataParallel, DistributedDataParallel and torch.compile put in front."""
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key


def _notes(match: _Match, state: Mapping[str, Tensor], normalise: str | None) -> Iterator[str]:
    """What is likely a mistake, though something can be loaded."""
    before = match.form.normalise
    if normalise is not None and before and normalise not in before:
        yield f"these weights were trained with model.normalise={' or '.join(before)}, this model has {normalise}"
    encoder = [name for name in state if name.startswith("network.encoder.") and not name.endswith(COUNTER)]
    num_left = sum(name not in match.loaded for name in encoder)
    if num_left:
        yield f"{num_left} of {len(encoder)} tensors of the encoder are not from the file; are its weights of another architecture?"
