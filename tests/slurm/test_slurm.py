"""The smoke profile on a Slurm of one node leaves the records of a local run.

``make test-slurm`` runs it, ``make test`` does not: it needs root, Debian's packages slurm-wlm and munge, and minutes. The node
is this machine, with two GPUs that only Slurm believes in, so that what the rules ask for is what a cluster would be asked for.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIGURED = Path("/etc/slurm/slurm.conf")  # where steps of a job look for it, whatever the environment says
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
CONF = """\
ClusterName=dfnb
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
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


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of a client of a running Slurm; its daemons end with the tests."""
    missing = ", ".join(name for name in NEEDED if not shutil.which(name))
    if missing or os.geteuid() != 0:
        pytest.fail(f"this test needs root and Debian's slurm-wlm and munge (not found: {missing or 'none'})")
    if CONFIGURED.is_symlink() and "/pytest-" in str(CONFIGURED.readlink()):
        CONFIGURED.unlink()  # of a test that was killed
    if CONFIGURED.exists() or CONFIGURED.is_symlink():
        pytest.fail(f"there is {CONFIGURED}: this machine has a Slurm of its own, which the test would replace")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    folder.chmod(0o755)  # munge insists on folders that others may enter
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n", encoding="utf-8")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 100
    conf = CONF.format(host=host, folder=folder, ports=free_ports(2), cpus=os.cpu_count(), memory=memory)
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    munge = ["munged", "-F", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    environment, daemons = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}, []
    try:
        CONFIGURED.parent.mkdir(parents=True, exist_ok=True)
        CONFIGURED.symlink_to(folder / "slurm.conf")
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c", "-N", host]):
            printed = (folder / f"{command[0]}.out").open("w", encoding="utf-8")
            daemons.append(subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.STDOUT))
            time.sleep(1)
        for _ in range(60):
            state = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
            )
            if state.stdout.strip() == "idle":
                break
            time.sleep(1)
        else:
            pytest.fail("\n".join(path.read_text(encoding="utf-8")[-2000:] for path in folder.glob("*.log")))
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
    subprocess.run(command, env={**environment, "PATH": path, "DFNB_HOME": str(home)}, cwd=home, check=True)


def records(home, pattern):
    found = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in home.glob(pattern)}
    assert found
    return found


def test_the_smoke_profile_on_slurm_leaves_the_records_of_a_local_run(slurm, tmp_path):
    profile = tmp_path / "profile"
    profile.mkdir()
    given = (CHECKOUT / "workflow" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    small = (
        given.replace("24000", "2000") + "slurm-status-command: squeue\nslurm-init-seconds-before-status-checks: 5\n"
    )
    (profile / "config.yaml").write_text(small, encoding="utf-8")
    run(tmp_path / "local", {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"})
    run(tmp_path / "cluster", {**slurm, "SNAKEMAKE_PROFILE": str(profile)})
    kept = ("parameters", "weights_sha256", "n", "chosen", "collapsed", "images_seen")
    local, cluster = (records(tmp_path / home, "runs/*/record.json") for home in ("local", "cluster"))
    assert {run: [record[name] for name in kept] for run, record in local.items()} == {
        run: [record[name] for name in kept] for run, record in cluster.items()
    }
    jobs = [{*records(tmp_path / home, "runs/notebooks/smoke/*/record.json")} for home in ("local", "cluster")]
    assert jobs[0] == jobs[1]
    tables = [
        {path.name: path.read_bytes() for path in (tmp_path / home / "reports/smoke/tables").glob("*.csv")}
        for home in ("local", "cluster")
    ]
    assert tables[0].keys() == tables[1].keys() and tables[0]
    assert [name for name in tables[0] if tables[0][name] != tables[1][name] and name != "overview.csv"] == []
