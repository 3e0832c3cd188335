"""Jobs on Ray: one cluster for all tests, started by hand as a user would, and jobs that join it."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_shards import break_label_id, files_below
from test_training import LOSSES, ROOT, command, last_state, wait_for_steps
from tiny import FolderMaker, read_metrics

from taxomix import main
from trainers.run_folder import RunFolder

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True)
class RayCluster:
    address: str
    environment: dict[str, str]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Unix sockets allow 107 characters, and pytest's folders are long. Ray may still write as its folder is removed.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
        }
        head = ["start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--dashboard-host=127.0.0.1"]
        head += ["--dashboard-port=0", "--disable-usage-stats", f"--temp-dir={folder}"]
        subprocess.run([*RAY, *head], env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
        try:
            yield RayCluster(f"127.0.0.1:{port}", environment)
        finally:
            pids = subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True, check=False).stdout.split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)


def on_ray(words: list[str], cluster: RayCluster) -> list[str]:
    """The words of a job of one process as those of a job of two workers on `cluster`."""
    kept = [word for word in words if not word.startswith("cluster")]
    return [*kept, "cluster=ray", f"cluster.address={cluster.address}", "cluster.cpus_per_worker=1", "cluster.threads_per_worker=1"]


def a_worker_of(cluster: RayCluster) -> int:
    """The process of a Ray Train worker of this cluster: another Ray may run on this machine."""
    for pid in subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True, check=True).stdout.split():
        if cluster.environment["RAY_AUTH_TOKEN"].encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return int(pid)
    pytest.fail("no worker of this cluster found")


@pytest.mark.timeout(240)
def test_two_ray_workers_train_a_job(tiny_job: list[str], tmp_path: Path, ray_cluster: RayCluster) -> None:
    words = [*on_ray(tiny_job, ray_cluster), "run.name=ray"]
    done = subprocess.run(command(words), cwd=ROOT, env=ray_cluster.environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "runs" / "ray")
    assert "tones: IoU of each class" in done.stdout
    assert len(read_metrics(run.path, "loss/disks")) == 6
    content = json.loads(run.evaluation.read_text())
    assert content["step"] == 6
    assert content["datasets"]["disks"]["num_pixels"] == 4 * 70 * 96  # each of the four pictures once, on whichever worker


@pytest.mark.timeout(240)
def test_a_failure_on_a_ray_worker_is_exit_1_with_its_reason(tiny_job: list[str], ray_cluster: RayCluster) -> None:
    words = [*on_ray(tiny_job, ray_cluster), "run.name=wild", "optim=sgd", "optim.lr=1e30", "schedule=constant", "loop.max_skipped_steps=2"]
    done = subprocess.run(command(words), cwd=ROOT, env=ray_cluster.environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "lower optim.lr" in done.stderr.splitlines()[-1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster.gpus_per_worker=1"], "cluster.gpus_per_worker: 1 for each of 2 workers found, but Ray has 0 in all"),
        (["cluster.workers=6"], "cluster.cpus_per_worker: 1 for each of 6 workers found, but Ray has 2 in all"),
    ],
)
def test_more_than_the_cluster_has_is_told(words: list[str], message: str, tiny_job: list[str], ray_cluster: RayCluster) -> None:
    words = [*on_ray(tiny_job, ray_cluster), "run.name=big", *words]
    done = subprocess.run(command(words), cwd=ROOT, env=ray_cluster.environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def prepare_words(folder: Path, out: Path, *more: str) -> list[str]:
    return ["prepare", "dataset=folder", f"source={folder}", f"out={out}", "samples_per_shard=2", *more]


@pytest.mark.timeout(240)
def test_preparing_on_ray_gives_the_bytes_of_one_process(make_folder: FolderMaker, tmp_path: Path, ray_cluster: RayCluster) -> None:
    folder = make_folder("disks", train=9)
    assert main(prepare_words(folder, tmp_path / "one", "workers=1")) == 0
    on_ray = command(prepare_words(folder, tmp_path / "ray", f"ray={ray_cluster.address}"))
    done = subprocess.run(on_ray, cwd=ROOT, env=ray_cluster.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "ray") == files_below(tmp_path / "one")

    break_label_id(folder)
    done = subprocess.run(
        [*on_ray, f"out={tmp_path / 'bad'}"], cwd=ROOT, env=ray_cluster.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"taxomix prepare: {folder}/labels/train/train_03.png: id 17 found in 7 pixels" in done.stderr
    assert not list((tmp_path / "bad" / "disks").glob("*.json"))


@pytest.mark.timeout(240)
def test_a_shard_whose_ray_process_dies_is_begun_anew(make_folder: FolderMaker, tmp_path: Path, ray_cluster: RayCluster) -> None:
    """One process of the cluster is killed in the middle of its first shard."""
    folder = make_folder("disks", train=9)
    assert main(prepare_words(folder, tmp_path / "one", "workers=1")) == 0
    code = f"""
import os, signal, sys, taxomix, data.prepare
from pathlib import Path
class Deadly(data.prepare.ShardTask):
    def run(self, advance):
        mark = Path({str(tmp_path / "killed")!r})
        if self.number == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(advance)
data.prepare.ShardTask = Deadly
sys.exit(taxomix.main({prepare_words(folder, tmp_path / "ray", f"ray={ray_cluster.address}")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ray_cluster.environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert files_below(tmp_path / "ray") == files_below(tmp_path / "one")


@pytest.mark.proof
@pytest.mark.timeout(400)
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_killed_ray_job_ends_with_the_weights_of_one_that_was_not(
    victim: str, tiny_job: list[str], tmp_path: Path, ray_cluster: RayCluster
) -> None:
    """The driver killed: the same command again goes on. A worker killed: Ray starts the workers again, and they go on."""
    runs = tmp_path / "runs"
    environment = ray_cluster.environment
    words = on_ray(tiny_job, ray_cluster)
    subprocess.run(command([*words, "run.name=whole"]), cwd=ROOT, env=environment, check=True, timeout=120)
    killed = command([*words, "run.name=killed"])
    process = subprocess.Popen(killed, cwd=ROOT, env=environment)
    wait_for_steps(runs / "killed", 3, process, seconds=100)
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(killed, cwd=ROOT, env=environment, check=True, timeout=150)
    else:
        os.kill(a_worker_of(ray_cluster), signal.SIGKILL)
        assert process.wait(timeout=200) == 0
    whole, resumed = last_state(runs, "whole"), last_state(runs, "killed")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    for name in LOSSES:
        assert read_metrics(runs / "killed", name) == read_metrics(runs / "whole", name)
