"""Recipes: each is a whole job by one word, and says what its paper says."""

import re
import shlex
from pathlib import Path

import pytest

import conf
from data.config import build, to_plain
from data.streams import FixedQuota
from models.outputs import ConcatConfig, HierarchyConfig, MultiHeadConfig
from trainers.config import JobConfig
from trainers.flat import FlatConfig
from trainers.hierarchical import HierarchicalConfig
from trainers.mixing.config import ClassMixConfig, DacsConfig
from trainers.optim import SgdConfig
from trainers.schedule import learning_rate
from trainers.teacher import TeacherConfig


def job_of(*words: str) -> JobConfig:
    return build(JobConfig, conf.compose("train", list(words)))


@pytest.mark.parametrize("name", conf.choices("recipe"))
def test_a_recipe_is_a_job_whose_run_has_its_name(name: str) -> None:
    job = job_of(f"recipe={name}")
    assert job.run.name == name
    assert job.data.root.endswith("shards")
    assert f"\nrecipe={name}, keys at the top:\n" in conf.describe("train")


def test_words_after_a_recipe_still_count() -> None:
    job = job_of("recipe=paper001", "trainer=flat", "outputs=multihead", "loop.steps=7", "data.mix={cityscapes: {samples: 4}}")
    assert (job.trainer.name, job.outputs.name, job.loop.steps, list(job.data.streams)) == ("flat", "multihead", 7, ["cityscapes"])


# What a recipe is: network and its statistics, views and crops, samples of a batch, optimizer, schedule, loop.
IN_1_4 = {"encoder": (0.25, 0.25)}
NO_DECAY = {"norms": (1, 0), "biases": (1, 0)}
SWIFTNET = ("swiftnet", "imagenet", "cityscapes")
ERFNET = ("erfnet", None, "imagenet")
ADAM_000 = ("adam", 4e-4, 1e-4, (0.9, 0.99), IN_1_4)
ADAM_002 = ("adam", 5e-4, 1e-4, (0.9, 0.999), {})
EXPECTED: dict[str, dict[str, object]] = {
    "paper000_cityscapes": {
        "model": SWIFTNET,
        "views": {"cityscapes": "19"},
        "crops": {"cityscapes": "thesis000_cityscapes"},
        "batch": 14,
        "optim": ADAM_000,
        "schedule": ("cosine", 212),
        "loop": (250 * (2975 // 14), 4 * 212, None, None),
    },
    "paper000_voc": {
        "model": SWIFTNET,
        "views": {},
        "crops": {"voc": "thesis000"},
        "batch": 14,
        "optim": ADAM_000,
        "schedule": ("cosine", 104),
        "loop": (250 * (1464 // 14), 4 * 104, None, None),
    },
    "paper000_concat": {
        "model": SWIFTNET,
        "views": {},  # the default one of Cityscapes is 19
        "crops": {"cityscapes": "thesis000_cityscapes", "voc": "thesis000"},
        "batch": 14,
        "optim": ADAM_000,
        "schedule": ("cosine", 317),
        "loop": (250 * ((2975 + 1464) // 14), 4 * 317, None, None),
    },
    "paper001": {
        "model": ("dilated_resnet50", "imagenet", "imagenet"),
        "views": {"cityscapes": "27", "vistas": "65"},
        "crops": {name: f"paper001_{name}" for name in ("cityscapes", "vistas", "gtsdb")},
        "batch": 4,
        "optim": ("sgd", 0.01, 1.7e-4, 0.9, NO_DECAY),
        "schedule": ("steps", 1),
        "loop": (17 * 9000, 9000, None, 0.9),
    },
    **{
        f"paper002_{name}": {
            "model": ERFNET,
            "views": {"cityscapes": "19", **({"vistas": "extra48"} if name == "three" else {})},
            "crops": dict.fromkeys(sets, "paper002"),
            "batch": 6,
            "optim": ADAM_002,
            "schedule": ("poly", 495),
            "loop": (150 * (2975 // 6), 495, 20, None),
        }
        for name, sets in {
            "cityscapes": ["cityscapes"],
            "cityscapes_gtsdb": ["cityscapes", "gtsdb"],
            "three": ["cityscapes", "gtsdb", "vistas"],
        }.items()
    },
    **{
        f"paper004_{name}": {
            "model": ("deeplabv2", None, "caffe"),
            "views": views,
            "crops": crops,
            "batch": batch,
            "optim": ("sgd", 2.5e-4, 5e-4, 0.9, {"outputs": (10, 1)}),
            "schedule": ("poly", 1),
            "loop": (steps, 5000, None, None),
        }
        for name, views, crops, batch, steps in (
            ("ssl_cityscapes", {"cityscapes": "19"}, {"cityscapes": "classmix_cityscapes"}, 4, 40_000),
            ("ssl_voc", {}, {"voc": "classmix_voc"}, 20, 40_000),
            *(
                (f"{of}_cityscapes", {of: "19", "cityscapes": "19"}, {of: f"dacs_{of}", "cityscapes": "dacs_cityscapes"}, 4, 250_000)
                for of in ("gta5", "synthia")
            ),
        )
    },
}


def test_every_recipe_of_a_paper_is_pinned() -> None:
    assert EXPECTED.keys() == {name for name in conf.choices("recipe") if name.startswith("paper")}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_recipes_are_what_the_papers_say(name: str) -> None:
    job = job_of(f"recipe={name}")
    data, optim, loop = job.data, job.optim, job.loop
    batch = sum(stream.samples or 0 for stream in data.streams.values()) if isinstance(data.quota, FixedQuota) else data.quota.batch
    own = optim.momentum if isinstance(optim, SgdConfig) else optim.betas
    groups = {group: (factors.lr, factors.weight_decay) for group, factors in optim.groups.items()}
    assert {
        "model": (job.model.name, job.model.weights, to_plain(job.model)["normalise"]),
        "views": data.views,
        "crops": {data.stream_datasets[name]: stream.crop or data.crop for name, stream in data.streams.items()},
        "batch": batch,
        "optim": (optim.name, optim.lr, optim.weight_decay, own, groups),
        "schedule": (job.schedule.name, job.schedule.hold),
        "loop": (loop.steps, loop.evaluate_every, loop.patience, None if loop.ema is None else loop.ema.decay),
    } == EXPECTED[name]


def rates(job: JobConfig, *steps: int) -> list[float]:
    return [learning_rate(job.optim.lr, job.schedule, step, job.loop.steps) for step in steps]


def test_paper_000() -> None:
    job = job_of("recipe=paper000_cityscapes")
    first, same, next_epoch, last = rates(job, 0, 211, 212, job.loop.steps - 1)
    assert first == same == 4e-4 > next_epoch
    assert 1e-6 <= last < 2e-6
    concat = job_of("recipe=paper000_concat")
    assert isinstance(concat.outputs, ConcatConfig)
    assert concat.outputs.predict == "all"


def test_paper_001() -> None:
    job = job_of("recipe=paper001")
    assert isinstance(job.outputs, HierarchyConfig)
    assert isinstance(job.trainer, HierarchicalConfig)
    assert (job.trainer.refine, job.outputs.rule) == ("parent", "greedy")
    assert {name: stream.samples for name, stream in job.data.streams.items()} == {"cityscapes": 1, "vistas": 2, "gtsdb": 1}
    epoch = 18000 // 2
    assert rates(job, *(number * epoch for number in (0, 7, 8, 14, 15, 16))) == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes_gtsdb", "three"])
def test_paper_002(name: str) -> None:
    job = job_of(f"recipe=paper002_{name}")
    assert rates(job, job.loop.steps // 2) == [pytest.approx(0.464 * 5e-4, rel=5e-3)]  # with the power inside: 0.536 outside
    assert job.data.quota.name == ("fixed" if name == "cityscapes" else "replicate")
    assert isinstance(job.trainer, FlatConfig)
    if name != "cityscapes":
        assert isinstance(job.outputs, MultiHeadConfig)
        assert job.outputs.decoder == "repeated"
        assert job.trainer.weighting == "learned"
        assert job.trainer.boxes == {"gtsdb": "cityscapes/traffic sign"}


def mixing(*words: str) -> ClassMixConfig | DacsConfig:
    trainer = job_of(*words).trainer
    assert isinstance(trainer, ClassMixConfig | DacsConfig)
    return trainer


def test_paper_004() -> None:
    classmix, dacs = mixing("recipe=paper004_ssl_cityscapes"), mixing("recipe=paper004_gta5_cityscapes")
    for trainer in (classmix, dacs):
        assert (trainer.mask, trainer.weight, trainer.threshold, trainer.target, trainer.consistency) == (
            "classes",
            "share",
            0.968,
            "labels",
            1,
        )
        assert trainer.teacher == TeacherConfig(decay=0.99, batchnorm="batch")
        assert not trainer.paste_ignored
    assert (classmix.rounding, classmix.strong, dacs.rounding, dacs.strong) == ("down", "none", "up", "dacs")
    assert isinstance(dacs, DacsConfig)
    assert dacs.mix == "inter"
    few, others = job_of("recipe=paper004_ssl_cityscapes", "data.mix.few.subset=1/30", "data.mix.others.subset=1/30").data.streams.values()
    assert (few.subset, few.rest, others.subset, others.rest, others.role) == ("1/30", False, "1/30", True, "unlabelled")
    rare = job_of("recipe=paper004_gta5_cityscapes", "+data.mix.gta5.rare_classes.temperature=0.01").data.streams["gta5"].rare_classes
    assert rare is not None
    half = rates(job_of("recipe=paper004_ssl_cityscapes"), 20_000)
    assert half == [pytest.approx(2.5e-4 * 0.5**0.9)]


def test_every_row_of_the_ablations_is_a_job() -> None:
    """The words of the tables of docs/mixing.md, after the recipe that heads each."""
    text = (Path(__file__).parents[1] / "docs" / "mixing.md").read_text()
    found = 0
    for table in text.split("| table | row | words after `recipe=")[1:]:
        recipe = table.partition("`")[0]
        for line in (line for line in table.splitlines() if line.startswith("| ")):
            for words in re.findall(r"`([^`]+=[^`]+)`", line):
                job_of(f"recipe={recipe}", *shlex.split(words))
                found += 1
    assert found > 15
