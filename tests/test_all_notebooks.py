"""Every notebook, as a user runs them: ``dfnb run smoke``. First in the alphabet, since it takes longest."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from dfnb import core, jobs

BIN = Path(sys.executable).parent


def left_of_a_killed(command, home, elsewhere):
    """The processes that are left of a workflow whose first process was killed while others trained."""
    with subprocess.Popen(command, cwd=elsewhere, stdout=subprocess.DEVNULL) as workflow:
        while workflow.poll() is None and not any(
            path.stat().st_size for path in home.glob("runs/notebooks/*/*/log.txt")
        ):
            time.sleep(0.2)
        started = psutil.Process(workflow.pid).children(recursive=True)
        workflow.kill()
    assert len(started) > 2
    return psutil.wait_procs(started, timeout=60)[1]


def test_the_smoke_profile_runs_whole_and_only_once(smoke_home, tmp_path_factory, monkeypatch):
    """Every notebook through Snakemake and papermill in a fresh home, its name with spaces and an accent, from elsewhere."""
    home, elsewhere = tmp_path_factory.mktemp("höme of a whole run"), tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(smoke_home / "datasets", home / "datasets")
    monkeypatch.setenv("DFNB_HOME", str(home))
    command = [str(BIN / "dfnb"), "run", "smoke", "--cores", "2"]
    assert not left_of_a_killed(command, home, elsewhere)
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Video AUC" in done.stdout and "index.html" in done.stdout.strip().splitlines()[-1]
    assert not list(elsewhere.iterdir())
    for job in jobs.jobs("smoke"):
        record = core.read_json(job.record)
        assert record["parameters"] == job.parameters.model_dump(mode="json")
        assert all(core.sha256(home / name) == digest for name, digest in record["files"].items()), job.id
        if job.trains:
            assert ": loss" in job.log.read_text(encoding="utf-8")
            continue
        executed = json.loads(job.log.read_text(encoding="utf-8"))
        outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
        assert not any(output.get("output_type") == "error" for output in outputs)
        # papermill may wait for ever for the message of a widget; nbclient notes here every one that was opened
        assert "widgets" not in executed["metadata"] and "vnd.jupyter.widget" not in json.dumps(outputs)
        trained = re.search(r"seed \d+: (training from|resumed in|epoch \d)", json.dumps(outputs))
        assert not trained, f"{job.id} trains, which is for jobs: {trained}"
    report = home / "reports" / "smoke"
    page = (report / "index.html").read_text(encoding="utf-8")
    places = set(re.findall(r'id="([^"]+)"', page))
    for name in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page):
        assert name[1:] in places if name[0] == "#" else (report / name).exists(), name
    assert all(job.done() for job in jobs.jobs("smoke"))
    times = {job.id: job.record.stat().st_mtime_ns for job in jobs.jobs("smoke")}
    again = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert again.returncode == 0 and "Video AUC" in again.stdout and "all is done" in again.stdout
    assert times == {job.id: job.record.stat().st_mtime_ns for job in jobs.jobs("smoke")}
    lost = next(job for job in jobs.jobs("smoke") if job.notebook == "09_report")
    (report / "index.html").unlink()
    assert not lost.done()
    assert subprocess.run(command, cwd=elsewhere, capture_output=True).returncode == 0
    assert lost.done() and (report / "index.html").exists()
