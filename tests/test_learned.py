"""A taxonomy that is learnt with the network: its gradient by hand, the restriction, what it finds where relations are known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from spaces import VIEWS, Plain, outputs_of, random_labels, slow_set_loss, space, view
from torch import Tensor, nn

from data.errors import InputError
from data.labels import IGNORE_INDEX
from data.universe import read_universe
from models.networks.base import Features, FirstMap, Network
from models.outputs import LearnedConfig, UniversalConfig, build_outputs
from models.outputs.learned import PACE, Learned
from models.outputs.set_loss import NO_LABEL
from taxomix import main

OWN = {"coarse": range(3), "fine": range(3, 7), "signs": range(7, 9)}

LEANINGS = {
    "coarse": {"fine/road": (0.9, 0.2, 0), "fine/car": (0.6, 0.7, 0), "fine/sign": (0.5, 0.4, 0.1), "signs/stop": (0, 1, 0)},
    "fine": {"coarse/sky": (0.1, 0.51, 0, 0), "signs/stop": (0, 0, 0, 0.8), "signs/yield": (0, 0, 0, 0.8)},
}
"""And 0 otherwise."""

ASSIGNED = {
    "coarse": (("coarse/ground", "fine/road"), ("coarse/thing", "fine/car", "signs/stop"), ("coarse/sky",)),
    "fine": (("fine/road",), ("coarse/sky", "fine/grass"), ("fine/car",), ("fine/sign", "signs/stop", "signs/yield")),
    "signs": (("signs/stop",), ("signs/yield",)),
}


def lean(made: Learned) -> None:
    leaves = made.leaves("coarse")
    for number, dataset in enumerate(VIEWS):
        for leaf, values in LEANINGS.get(dataset, {}).items():
            made.leanings[number].data[leaves.index(leaf)] = torch.tensor(values, dtype=made.leanings[number].dtype) / PACE


def learned() -> tuple[Learned, dict[str, Tensor]]:
    made, logits = outputs_of("learned")
    assert isinstance(made, Learned)
    lean(made)
    return made, logits


def test_a_class_belongs_to_the_label_it_leans_to_the_most() -> None:
    made, _ = learned()
    assert {dataset: made.label_leaves(dataset) for dataset in VIEWS} == ASSIGNED
    leaves = made.leaves("coarse")
    for dataset, sets in ASSIGNED.items():
        expected = [next((i for i, names in enumerate(sets) if leaf in names), NO_LABEL) for leaf in leaves]
        assert made.assignment(dataset).tolist() == expected


def test_losses_and_probabilities_are_those_of_the_sets() -> None:
    made, logits = learned()
    labels = random_labels(1)
    terms = made.losses(logits, labels)
    for dataset, sets in ASSIGNED.items():
        numbers = [[made.leaves(dataset).index(name) for name in names] for names in sets]
        total, count = slow_set_loss(logits[dataset], labels[dataset], [frozenset(one) for one in numbers])
        assert float(terms[dataset].total.detach()) == pytest.approx(total, rel=1e-9)
        assert int(terms[dataset].count) == count
        p = torch.softmax(logits[dataset].detach(), 1)
        expected = torch.stack([p[:, one].sum(1) for one in numbers], 1)
        torch.testing.assert_close(made.class_log_probabilities(logits[dataset], dataset).exp(), expected)
        assert torch.equal(made.predict(logits[dataset], dataset), expected.argmax(1))


def slow_gradient(logits: Tensor, labels: Tensor, dataset: str, weights: Tensor, share: float) -> Tensor:
    """By each leaning, of how often a class is right where it is its dataset's best, against none, which is so in `share` of cases."""
    found = torch.zeros(9, len(VIEWS[dataset].names), dtype=torch.float64)
    for n, i, j in (labels != IGNORE_INDEX).nonzero().tolist():
        for name, own in OWN.items():
            if name == dataset:
                continue
            q = max(own, key=lambda q: float(logits[n, q, i, j]))
            found[q] += weights[n, i, j] * share
            found[q, labels[n, i, j]] -= weights[n, i, j]
    return found


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 0.5), (torch.float64, 0.8), (torch.bfloat16, 0.5)])
def test_leanings_have_the_gradient_of_a_rounding_that_is_not_there(dtype: torch.dtype, share: float) -> None:
    """Where a class belongs to no label, too; not for labels of its own dataset; and nothing of it for mixed pictures."""
    _, logits = learned()
    made = build_outputs(LearnedConfig(name="learned", share=share), VIEWS, Plain()).double()
    assert isinstance(made, Learned)
    lean(made)
    logits = {dataset: values.detach().to(dtype) for dataset, values in logits.items()}
    labels = random_labels(1)
    generator = torch.Generator().manual_seed(2)
    where = {dataset: {dataset: torch.rand(values.shape, generator=generator) < 0.7} for dataset, values in labels.items()}
    weights = {dataset: torch.rand(values.shape, generator=generator) for dataset, values in labels.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        terms = made.losses(logits, labels, where, weights)
        mixed = made.mixed_losses(logits, labels, weights)
    torch.stack([number * term.total for number, term in enumerate(terms.values(), start=1)]).sum().backward()
    for number, dataset in enumerate(VIEWS):
        counted = labels[dataset].masked_fill(~where[dataset][dataset], IGNORE_INDEX)
        expected = slow_gradient(logits[dataset], counted, dataset, weights[dataset], share)
        grad = made.leanings[number].grad
        assert grad is not None
        torch.testing.assert_close(grad, (number + 1) * expected, rtol=1e-5, atol=1e-5)
        assert not mixed[dataset].total.requires_grad


def test_boxes_teach_no_leanings() -> None:
    views = {**VIEWS, "signs": replace(VIEWS["signs"], supervision="boxes")}
    made = space("learned", views)
    logits = {dataset: torch.randn(2, 9, 4, 5, dtype=torch.float64) for dataset in views}
    torch.stack([term.total for term in made.losses(logits, random_labels(1)).values()]).sum().backward()
    assert isinstance(made, Learned)
    assert [bool(leanings.grad is not None and leanings.grad.any()) for leanings in made.leanings] == [True, True, False]


def test_leanings_stay_in_the_unit_interval_and_in_their_own_dataset() -> None:
    """However far an update goes, nothing leaves its own label."""
    made, logits = learned()
    optimizer = torch.optim.SGD(made.parameters(), lr=10.0)
    for seed in range(5):
        optimizer.zero_grad()
        terms = made.losses(logits, random_labels(seed))
        assert all(bool(((one >= 0) & (one <= 1 / PACE)).all()) for one in made.leanings)
        torch.stack([term.total for term in terms.values()]).sum().backward(retain_graph=True)
        optimizer.step()
        for dataset, own in OWN.items():
            assert made.assignment(dataset)[list(own)].tolist() == list(range(len(own)))


# Relations that are known.

ATOMS = 9
COARSE = [0, 0, 0, 1, 1, 2, 3, 3, 3]
FINE = [0, 1, 2, 3, 3, 4, 5, 6, 7]
"""Of each atom its label: three fine ones below the first coarse one and below the last, and two that are equal."""
TOY_VIEWS = {"coarse": view(["A", "B", "C", "D"]), "fine": view(["a1", "a2", "a3", "b", "c", "d1", "d2", "d3"])}
BELOW = {
    *((f"fine/{name}", f"coarse/{name[0].upper()}") for name in TOY_VIEWS["fine"].names),
    ("coarse/B", "fine/b"),
    ("coarse/C", "fine/c"),
}


class Linear(Network):
    """Its features are the images; the classifier is linear."""

    def forward(self, images: Tensor) -> Features:
        return (images,)

    def make_decoder(self, num_classes: int) -> nn.Module:
        return nn.Identity()

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(ATOMS + 1, num_classes, 1))


def toy_pictures(generator: torch.Generator, label_of: Sequence[int], look: float) -> tuple[Tensor, Tensor]:
    """Pictures (4, ATOMS + 1, 12, 12) that show their atoms with noise, and by `look` whose they are, and their labels."""
    often = torch.tensor([3.0, 3, 3, 4, 1, 3, 1, 1, 1])
    atoms = torch.multinomial(often, 4 * 12 * 12, replacement=True, generator=generator).view(4, 12, 12)
    shown = torch.nn.functional.one_hot(atoms, ATOMS).movedim(3, 1) + 0.3 * torch.randn(4, ATOMS, 12, 12, generator=generator)
    return torch.cat([shown, torch.full((4, 1, 12, 12), look)], dim=1), torch.tensor(label_of)[atoms]


def train_toy(seed: int, look: float, kind: type[torch.optim.Optimizer] = torch.optim.Adam, **keys: Any) -> Learned:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    made = build_outputs(LearnedConfig(name="learned"), TOY_VIEWS, Linear())
    assert isinstance(made, Learned)
    rates = [{"params": list(made.leanings)}, {"params": list(made.classifiers.parameters()), "lr": 3e-2}]
    optimizer = kind(rates, **keys)
    rows = {"coarse": torch.arange(4), "fine": torch.arange(4, 8)}
    for _ in range(300):
        (coarse, of_coarse), (fine, of_fine) = toy_pictures(generator, COARSE, -look), toy_pictures(generator, FINE, look)
        logits = made((torch.cat([coarse, fine]),), rows, (12, 12))
        terms = made.losses(logits, {"coarse": of_coarse, "fine": of_fine})
        optimizer.zero_grad()
        torch.stack([term.total / term.count for term in terms.values()]).sum().backward()
        optimizer.step()
    return made


def found_relations(made: Learned) -> set[tuple[str, str]]:
    """(class, label of another dataset that it belongs to)."""
    return {
        (leaf, f"{dataset}/{label}")
        for dataset, view in made.views.items()
        for label, leaves in zip(view.names, made.label_leaves(dataset), strict=True)
        for leaf in leaves
        if not leaf.startswith(f"{dataset}/")
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("look", [0.0, 1.0])
def test_known_relations_are_learnt(seed: int, look: float) -> None:
    """Whether pictures of the two datasets look alike, or show whose they are. No class is said to be a part of what it is not."""
    found = found_relations(train_toy(seed, look, lr=1e-3, betas=(0.9, 0.99)))
    assert len(found & BELOW) == len(found)
    assert len(found & BELOW) >= 0.9 * len(BELOW)


def test_plain_gradients_find_them_too() -> None:
    assert found_relations(train_toy(0, 0.0, torch.optim.SGD, lr=0.01, momentum=0.9)) == BELOW


# In a run.


def test_what_a_run_has_learnt_is_written_for_other_runs(tiny_job: list[str], tmp_path: Path) -> None:
    words = [word for word in tiny_job[1:] if not word.startswith("data.mix")] + ["data.mix={tones: 2, disks: 2}", "loop.steps=2"]
    run, out = tmp_path / "runs" / "first", tmp_path / "out"
    assert main(["train", *words, "outputs=learned", "optim.lr=0.1", "run.name=first"]) == 0
    assert main(["evaluate", f"run={run}", f"out={out}", "overlays=0", "worst=0"]) == 0
    universe = read_universe(str(out / "universe.yaml"))
    assert {name: len(labels) for name, labels in universe.labels.items()} == {"tones": 2, "disks": 3}
    assert main(["train", *words, "outputs=universal", f"outputs.universe={out / 'universe.yaml'}", "run.name=second"]) == 0


def test_a_universe_has_what_no_label_tells_apart_as_one() -> None:
    made, logits = learned()
    made.leanings[1].data[made.leaves("fine").index("coarse/ground"), 0] = 1 / PACE  # with fine/road in coarse/ground: they are equal
    universe = made.universe()
    assert universe.names == (
        "coarse/ground+fine/road",
        "coarse/thing",
        "coarse/sky",
        "fine/grass",
        "fine/car",
        "fine/sign",
        "signs/stop",
        "signs/yield",
    )
    expected = {dataset: dict(zip(VIEWS[dataset].names, sets, strict=True)) for dataset, sets in ASSIGNED.items()}
    expected["coarse"]["ground"] = expected["fine"]["road"] = ("coarse/ground+fine/road",)
    assert universe.labels == expected
    other = build_outputs(UniversalConfig(name="universal", universe=universe), VIEWS, Plain())
    merged = {
        dataset: torch.cat([values[:, [0, 3]].logsumexp(1, True), values[:, [1, 2, *range(4, 9)]]], 1) for dataset, values in logits.items()
    }
    for dataset, values in logits.items():
        found = other.class_log_probabilities(merged[dataset], dataset)
        torch.testing.assert_close(found, made.class_log_probabilities(values, dataset))


def test_a_share_of_all_or_nothing_is_refused() -> None:
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match=r"outputs\.share: \d found"):
            LearnedConfig(name="learned", share=share)
