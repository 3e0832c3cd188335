"""`taxomix evaluate`: a run's checkpoint on its datasets or on others."""

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from data.cache import CacheConfig
from data.errors import FieldError, InputError, NoSuchSplitError
from data.files import atomic_write
from data.labels import IGNORE_INDEX, View
from data.progress import track
from data.shards import ShardSplit
from data.taxonomy import write_universe
from models.model import SegmentationModel
from models.outputs.base import never_predicted
from models.outputs.learned import Learned
from trainers.collapse import COLLAPSED, Peaks, describe, find_collapsed
from trainers.evaluation.passes import PassesConfig
from trainers.evaluation.protocols import ProtocolConfig, protocol_of, protocol_result
from trainers.evaluation.readings import (
    Reading,
    Sets,
    cross_reading,
    level_readings,
    own_reading,
    second_choice_reading,
    sets_reading,
    tree_readings,
)
from trainers.evaluation.results import content_of, cross_content, settings_of, write_images, write_json
from trainers.evaluation.sizes import PLAIN, SizeConfig, size_of
from trainers.evaluation.tally import MAIN, Tally, Task, all_scores, count
from trainers.evaluation.through import Through, by_relations, read_through, sets_of
from trainers.finished import RunChoice
from trainers.metrics import Scores
from trainers.overlay import write_confusions, write_task_panels, write_worst
from trainers.ranks import Ranks, ranks_from_environment
from trainers.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PassesConfig, RunChoice):
    """The keys of `taxomix evaluate`."""

    split: str | None = None
    """null: the run's own data.val_split."""
    root: str | None = None
    """null: where the run was trained."""
    datasets: tuple[str, ...] | dict[str, str | None] | None = None
    """Names, or names with the dataset of the run that answers for each; null: those of the run."""
    views: dict[str, str] = field(default_factory=dict)
    """Of datasets that are not of the run: dataset -> view; its default where not given."""
    through: Path | None = None
    """A table of what the labels of datasets are that are not of the run."""
    foreign: bool = False
    """For datasets that are not of the run: whether leaves of none of their labels take part, and are misses where they win."""
    cross: bool = False
    """Whether to count, too, what is predicted on each dataset as if its pictures were of each of the run's datasets."""
    size: str | SizeConfig = "label"
    protocols: dict[str, str | ProtocolConfig] = field(default_factory=dict)
    """Dataset -> over which classes its means are taken, and by which rule."""
    out: Path | None = None
    """Where the results go; null: the run's folder."""
    cache: CacheConfig
    """Of this host; the run's config knows that of the host it was trained on."""
    overlays: int = 2
    worst: int = 4
    """Pictures of each dataset with the lowest mIoU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        size_of(self.size)
        for name in ("overlays", "worst"):
            if getattr(self, name) < 0:
                raise FieldError(name, f"{getattr(self, name)} found, expected 0 or more; raise it")


def evaluate_run(config: EvaluateConfig) -> Path | None:
    """Evaluate a run as `config` says, as one process or as one of those that torchrun started. Returns evaluation.json, None on all of
    torchrun's processes but the first. Raises InputError for what the user has to mend, before anything is evaluated."""
    ranks = ranks_from_environment()
    try:
        path = Evaluation(config, ranks).run()
        ranks.barrier()
        return path if ranks.is_main else None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Evaluation:
    """One rank's part of an evaluation."""

    def __init__(self, config: EvaluateConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        self.out = RunFolder(config.out or config.run)
        """Where results go: a folder with the names of a run's."""
        self.model, self.job, self.state = config.open(ranks.device)
        self.split = config.split or self.job.data.val_split
        self.size = size_of(config.size)
        self.protocols = {name: protocol_of(protocol) for name, protocol in config.protocols.items()}
        through = None if config.through is None else read_through(config.through)
        splits = self._open_splits()
        self.tasks = {name: self._task(name, split, through) for name, split in splits.items()}
        self._check_names(through)
        self._check_out()

    def _check_names(self, through: Through | None) -> None:
        for key, names in (("protocols", self.config.protocols), ("views", self.config.views)):
            for name in names:
                if name not in self.tasks:
                    raise InputError(f"{key}.{name}: no dataset that is evaluated, expected one of {', '.join(self.tasks)}; mend the name")
        own = [name for name in self.config.views if name in self.model.outputs.views]
        if own:
            raise InputError(f"views.{own[0]}: a dataset of the run, expected others: it is evaluated in the classes it was trained in")
        for name, protocol in self.protocols.items():
            protocol.names(self.tasks[name].readings[MAIN].view)
        if through is None:
            return
        found = ", ".join(through.labels)
        if not set(through.labels) & set(self.tasks):
            raise InputError(f"through={self.config.through}: labels of {found} found, expected some of datasets=; mend either")
        for name in through.labels:
            if name in self.tasks and self._is_own(name):
                raise InputError(
                    f"through={self.config.through}: labels of {name} found, which is of the run and answers for itself, expected others; "
                    f"remove them, or have another dataset of the run answer: 'datasets={{{name}: OTHER}}'"
                )

    @property
    def heads(self) -> dict[str, str | None]:
        """Dataset -> the dataset of the run that answers, None where that is not said."""
        known, datasets = self.model.outputs.views, self.config.datasets
        named = dict.fromkeys(datasets or known) if not isinstance(datasets, dict) else dict(datasets)
        for name, head in named.items():
            if head is not None and head not in known:
                raise InputError(f"datasets.{name}: {head} found, expected a dataset of the run, one of {', '.join(known)}; mend the name")
        return named

    def _open_splits(self) -> dict[str, ShardSplit]:
        """The split of each dataset that has it with labels; the others are named in a warning. Raises InputError where that is none."""
        splits, missing = dict[str, ShardSplit](), list[str]()
        for name in self.heads:
            try:
                opened = self._open(name, self.split)
            except NoSuchSplitError as error:
                missing.append(str(error))
                continue
            if opened.label_space.supervision == "none":
                missing.append(f"{opened.location}: split '{self.split}' has no labels")
                continue
            splits[name] = opened
        if not splits:
            raise InputError(f"split={self.split}: no dataset of the run has it with labels, expected at least one ({missing[0]})")
        for reason in missing if self.ranks.is_main else ():
            log.warning("not evaluated: %s", reason)
        return splits

    def _open(self, name: str, split: str) -> ShardSplit:
        data = replace(self.job.data, root=self.config.root or self.job.data.root)
        return ShardSplit(data.location(name), split, cache=self.config.cache)

    def _is_own(self, name: str) -> bool:
        """Whether a dataset is of the run and answers for itself."""
        return name in self.model.outputs.views and self.heads[name] in (None, name)

    def _task(self, name: str, split: ShardSplit, through: Through | None) -> Task:
        outputs = self.model.outputs
        head = self.heads[name] or (name if name in outputs.views else next(iter(outputs.views)))
        readings = self._own_readings(name, split) if self._is_own(name) else self._other_readings(name, split, head, through)
        if self.config.cross:
            view = readings[MAIN].view
            readings |= {f"cross/{other}": cross_reading(outputs, other, view) for other in outputs.views}
        crops = self.job.data.crops
        return Task(split=split, readings=readings, crop=crops[name if name in crops else head])

    def _own_readings(self, name: str, split: ShardSplit) -> dict[str, Reading]:
        outputs = self.model.outputs
        if split.label_space.to_dict() != self.state["label_spaces"][name]:
            raise InputError(
                f"{split.location}: other classes than the run was trained with found; give the shards of that dataset as root="
            )
        rule = self.protocols.get(name, ProtocolConfig()).second_choice
        main = own_reading(outputs, name)
        if rule:
            main = second_choice_reading(outputs, name, main.view, outputs.label_leaves(name), rule)
        return {MAIN: main, **_flat(level_readings(outputs, name))}

    def _other_readings(self, name: str, split: ShardSplit, head: str, through: Through | None) -> dict[str, Reading]:
        outputs, view, foreign = self.model.outputs, split.label_space.view(self.config.views.get(name)), self.config.foreign
        all_sets, of_tree = sets_of(outputs, self.job.outputs, through, name, view, head)
        if by_relations(self.job.outputs, through, name):  # what the run has no part of is a label that it misses
            sets = all_sets
            if not any(sets):
                raise InputError(f"taxonomy: no label of {name} found that one of the run is a part of, expected some; give through=FILE")
        else:
            view, sets = _without_empty(view, all_sets), [leaves for leaves in all_sets if leaves]
        if not sets:
            raise InputError(f"through: labels.{name}: null for all labels found, expected a leaf or a label of the run for some; mend it")
        rule = self.protocols.get(name, ProtocolConfig()).second_choice
        if rule:
            return {MAIN: second_choice_reading(outputs, head, view, sets, rule)}
        if self.ranks.is_main:
            for text in never_predicted(view, _expanded(self.model, sets)):
                log.warning("%s: %s", name, text)
        main = sets_reading(outputs, head, view, sets, foreign=foreign, of_tree=of_tree)
        return {MAIN: main, **_flat(tree_readings(outputs, head, view, _expanded(self.model, sets), of_tree, foreign=foreign))}

    def run(self) -> Path:
        """Count on all ranks; the main one writes. Returns evaluation.json."""
        config, model = self.config, self.model
        progress = track if self.ranks.is_main else None
        tallies = count(model, self.tasks, self.ranks, passes=config, size=self.size, progress=progress)
        path = self.out.evaluation
        if not self.ranks.is_main:
            return path
        results = all_scores(model, tallies)
        protocols = {name: self._protocol_result(name, tallies[name]) for name in self.protocols}
        about = {"run": self.job.run.name, "step": self.state["step"], "split": self.split}
        weights = {"checkpoint": config.checkpoint, "averaged": "ema" in self.state}
        if path.is_file():  # pictures of another evaluation, whose scores are overwritten
            self._remove_pictures()
        extra = {"collapsed": self._collapsed(tallies, results), "settings": self._settings()}
        write_json(path, content_of(tallies, results, protocols=protocols, **about, **weights, **extra))
        write_images(self.out.path / "evaluation_images.jsonl", self.tasks, tallies)
        if config.cross:
            write_json(self.out.path / "confusions.json", cross_content(self.tasks, tallies, **about))
        if isinstance(model.outputs, Learned):
            write_universe(self.out.path / "universe.yaml", model.outputs.universe())
        self._draw(tallies)
        return path

    def _collapsed(self, tallies: Mapping[str, Tally], results: Mapping[str, Scores]) -> dict[str, list[str]]:
        """As the run says in training, where this evaluation is like those; no other compares with them."""
        if self.split != self.job.data.val_split or self.size != PLAIN or self.config.num_looks > 1 or self.config.window is not None:
            return {}
        own = {name: result for name, result in results.items() if self._is_own(name)}
        found = find_collapsed(Peaks(self.state.get("peaks", {})), self.job.data.hidden, {name: tallies[name].matrix for name in own}, own)
        if found:
            log.warning("%s: %s", COLLAPSED, describe(found))
        return found

    def _check_out(self) -> None:
        """Raise InputError, on all ranks alike, where nothing can be written into the folder of the results."""
        problem = ""
        if self.ranks.is_main:
            try:
                self.out.path.mkdir(parents=True, exist_ok=True)
                with atomic_write(self.out.path / ".writable"):
                    pass
                (self.out.path / ".writable").unlink()
            except OSError as error:
                problem = f"out={self.out.path}: {error.strerror}; expected a folder that can be written, give another as out="
        problem = self.ranks.text_of_main(problem)
        if problem:
            raise InputError(problem)

    def _remove_pictures(self) -> None:
        for folder in (self.out.confusion, self.out.overlays, self.out.overlays / "worst"):
            for picture in folder.glob("*.png"):
                picture.unlink()

    def _draw(self, tallies: Mapping[str, Tally]) -> None:
        shown: dict[str, Any] = {"passes": self.config, "size": self.size}
        deque(write_confusions(tallies, self.out.confusion), maxlen=0)
        deque(write_task_panels(self.model, self.tasks, self.out.overlays, self.config.overlays, **shown), maxlen=0)
        write_worst(self.model, self.tasks, tallies, self.out.overlays / "worst", self.config.worst, **shown)

    def _settings(self) -> dict[str, Any]:
        """How pictures were shown, and what else is not as in training."""
        config = self.config
        keys = ("rule", "predict", "taxonomy", "merge", "teacher", "root", "through", "foreign", "views", "protocols")
        given = {key: getattr(config, key) for key in keys if getattr(config, key) not in (None, False, {})}
        others = {name: task.readings[MAIN].head for name, task in self.tasks.items() if not self._is_own(name)}
        if others:
            given["answered_by"] = others
        if "protocols" in given:
            given["protocols"] = {name: protocol if isinstance(protocol, str) else "custom" for name, protocol in config.protocols.items()}
        return settings_of(config, self.size) | {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}

    def _protocol_result(self, name: str, tally: Tally) -> dict[str, Any]:
        given, protocol, task = self.config.protocols[name], self.protocols[name], self.tasks[name]
        view, pixels = task.readings[MAIN].view, dict[str, np.ndarray]()
        if protocol.min_pixels is not None:
            pixels["evaluated"] = view.count(task.split.labels().total())
            pixels |= self._train_pixels(name, protocol, view)
        found = protocol_result(protocol, given if isinstance(given, str) else "custom", tally, view, pixels)
        if not found["classes"]:
            log.warning("protocols.%s: no class has %s pixels, so that there is no mean", name, protocol.min_pixels)
        return found

    def _train_pixels(self, name: str, protocol: ProtocolConfig, view: View) -> dict[str, np.ndarray]:
        """Pixels of the classes of the view in the split train that the protocol looks at, if it is there."""
        dataset = protocol.pixels_of or name
        try:
            split = self._open(dataset, "train")
        except NoSuchSplitError:
            text = "protocols.%s: no split train of %s found, so that min_pixels looks at split %s alone"
            log.warning(text, name, dataset, self.split)
            return {}
        by_id = split.labels().total()  # at the size of the labels as they are stored
        if dataset == name:
            return {"train": view.count(by_id)}
        other = split.label_space.view()
        by_name = dict(zip(other.names, other.count(by_id).tolist(), strict=True))
        return {f"{dataset} train": np.array([by_name.get(label, 0) for label in view.names])}


def _flat(levels: Mapping[str, Mapping[str, Reading]]) -> dict[str, Reading]:
    return {f"{kind}/{name}": reading for kind, named in levels.items() for name, reading in named.items()}


def _expanded(model: SegmentationModel, sets: Sets) -> Sets:
    """Nodes of a tree as their leaves."""
    tree = getattr(model.outputs, "tree", None)
    return sets if tree is None else [sorted(tree.expand(tuple(nodes))) for nodes in sets]


def _without_empty(view: View, sets: Sets) -> View:
    """`view` without the classes that are no leaf: their pixels are ignored."""
    kept = [i for i, leaves in enumerate(sets) if leaves]
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[kept] = np.arange(len(kept))
    return replace(
        view,
        names=tuple(view.names[i] for i in kept),
        colors=tuple(view.colors[i] for i in kept),
        native_ids=tuple(view.native_ids[i] for i in kept),
        table=table[view.table],
    )
