"""Imports go one way, and training needs no Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["data", "models", "trainers", "cluster", "tune", "taxomix"]


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ORDER[:-1])
def test_imports_go_one_way(package: str) -> None:
    later = set(ORDER[ORDER.index(package) + 1 :])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported_packages(path) & later, path


@pytest.mark.parametrize("package", ["data", "models", "trainers", "conf"])
def test_ray_is_named_in_no_file_below_cluster(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert "ray" not in imported_packages(path), path


def test_importing_the_training_loop_imports_neither_ray_nor_hydra_nor_webdataset() -> None:
    code = (
        "import sys, trainers.loop, trainers.finished, cluster.launch;"
        "print([name for name in ('ray', 'hydra', 'webdataset') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert result.stdout.strip() == "[]"
