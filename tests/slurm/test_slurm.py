"""The smoke profile on a Slurm of one node leaves the scores of a local run.

``make test-slurm`` runs it, ``make test`` does not: it needs root, Debian's packages slurm-wlm and
munge, and minutes. The node is this machine, with two GPUs that only Slurm believes in, so that
what the rules ask for is what a cluster would be asked for.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from dfnb.store.scores import CONDITION
from dfnb.store.units import KEYS
from facesets.files import read_metadata

CHECKOUT = Path(__file__).resolve().parents[2]
# where steps of a job look for it, whatever the environment says
CONFIGURED = Path("/etc/slurm/slurm.conf")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
CONF = """\
ClusterName=dfnb
SlurmctldHost={host}
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a client of a running Slurm; its daemons end with the tests."""
    missing = ", ".join(name for name in NEEDED if not shutil.which(name))
    if missing or os.geteuid() != 0:
        pytest.fail(
            f"this needs root and Debian's slurm-wlm and munge (missing: {missing or 'none'})"
        )
    if CONFIGURED.is_symlink() and "/pytest-" in str(CONFIGURED.readlink()):
        CONFIGURED.unlink()  # of a test that was killed
    if CONFIGURED.exists() or CONFIGURED.is_symlink():
        pytest.fail(f"there is {CONFIGURED}: the test would replace this machine's own Slurm")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    folder.chmod(0o755)  # munge insists on folders that others may enter
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "gres.conf").write_text(
        "Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n", encoding="utf-8"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 100
    conf = CONF.format(host=host, folder=folder, cpus=os.cpu_count(), memory=memory)
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    munge = ["munged", "-F", "--force", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    environment, daemons = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}, []
    try:
        CONFIGURED.parent.mkdir(parents=True, exist_ok=True)
        CONFIGURED.symlink_to(folder / "slurm.conf")
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c", "-N", host]):
            daemons.append(subprocess.Popen(command, env=environment))
            time.sleep(1)
        state = ["sinfo", "-h", "-o", "%T"]
        for _ in range(60):
            shown = subprocess.run(state, env=environment, capture_output=True, text=True)
            if shown.stdout.strip() == "idle":
                break
            time.sleep(1)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        CONFIGURED.unlink(missing_ok=True)


def run(home, environment):
    """Run the smoke profile in a home of its own."""
    home.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "dfnb.cli", "run", "smoke", "--cores", "2"]
    environment = {**environment, "PATH": path, "DFNB_HOME": str(home)}
    subprocess.run(command, env=environment, cwd=home, check=True)


def rows(path):
    """The rows of a score file; two notebooks that run side by side may add theirs in any order."""
    return pd.read_parquet(path).sort_values([*CONDITION, *KEYS], ignore_index=True)


def test_the_smoke_profile_on_slurm_leaves_the_scores_of_a_local_run(slurm, tmp_path):
    profile = tmp_path / "profile"
    profile.mkdir()
    shipped = CHECKOUT / "workflow" / "slurm" / "config.yaml"
    small = shipped.read_text(encoding="utf-8").replace("24000", "2000")
    small = small.replace("cpus_per_task: 8", "cpus_per_task: 1")
    small += "slurm-status-command: squeue\nslurm-init-seconds-before-status-checks: 5\n"
    (profile / "config.yaml").write_text(small, encoding="utf-8")
    here = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    run(tmp_path / "local", here)
    run(tmp_path / "cluster", {**slurm, "SNAKEMAKE_PROFILE": str(profile)})
    local = list((tmp_path / "local" / "reports" / "smoke" / "scores").glob("*.parquet"))
    assert local
    for path in local:
        other = tmp_path / "cluster" / path.relative_to(tmp_path / "local")
        pd.testing.assert_frame_equal(rows(path), rows(other))
        records = [read_metadata(file)["record"] for file in (path, other)]
        assert records[0]["weights_sha256"] == records[1]["weights_sha256"], path
    assert (tmp_path / "cluster" / "reports" / "smoke" / "index.html").exists()
