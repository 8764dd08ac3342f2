"""The command as a user meets it: bad input, a kill, a full disk, two at once."""

import os
import resource
import shutil
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from profiles import BASELINE, SETTINGS, write_profile

from dfnb import files, jobs
from dfnb.cli import app

NOTEBOOK = f"""
from dfnb import jobs, parameters, records
p = parameters.check("{BASELINE}", globals())
jobs.finish("{BASELINE}", p, records.Clock(), run=jobs.trained(p).id)
"""


def dfnb(*words, **options):
    command = [sys.executable, "-m", "dfnb.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.fixture
def output_of(monkeypatch, capsys):
    """Runs a command in this process; returns its exit status and all that it prints."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dfnb", *words])
        with pytest.raises(SystemExit) as end:
            app()
        printed = capsys.readouterr()
        status = end.value.code
        text = printed.out + printed.err
        if isinstance(status, str):  # the interpreter prints it to stderr, and exits with 1
            return 1, text + status
        return status, text

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "dmeo"), "there is no profile 'dmeo'"),
        (("train", "mine", "x"), "has no training x"),
        (("report", "../x"), "../x"),
        (("synth", "synth-z"), "synth-z.yaml does not exist"),
        (("prepare", "nowhere"), "nowhere"),
        (("prepare", "celeb-df-v2"), "celeb-df-v2 needs --root"),
        (("prepare", "nowhere.csv"), "nowhere.csv"),
        (("prepare", "uadfv", "--root", "."), "49 published files: 0 (); access: Ask the authors"),
        (("prepare", "nowhere", "--set", "size"), "write KEY=VALUE, as in --set size=256"),
        (("prepare", "mine", "dfdc"), "dfdc is a dataset of data_manifest/"),
        (("prepare", "videos/dfdc"), "another name: dfnb prepare videos/dfdc NAME"),
    ],
)
def test_bad_input_ends_in_one_sentence(own_home, output_of, words, sentence):
    write_profile(own_home)
    shutil.copytree(files.find("data_manifest"), own_home / "data_manifest")
    status, printed = output_of(*words)
    assert status == 1 and printed.startswith("dfnb: ") and sentence in printed
    assert "Traceback" not in printed


def test_a_full_disk_is_explained(tmp_path):
    """No file may grow beyond 20 kB here."""
    limits = (20_000, 20_000)
    process = dfnb(
        "synth",
        "smoke-b",
        "--workers",
        "1",
        env={**os.environ, "DFNB_HOME": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    printed = process.communicate()[1].decode()
    assert process.returncode == 1 and "cannot be written (" in printed and "make room" in printed
    assert "Traceback" not in printed


@pytest.fixture
def small_run(own_home):
    """A home with a profile of one training and its notebook."""
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "epochs": 4}})
    parameters = nbformat.v4.new_code_cell('profile = "mine"', metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell(NOTEBOOK)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, own_home / "notebooks" / f"{BASELINE}.ipynb")
    return own_home


def test_a_killed_run_leaves_no_process_and_goes_on(small_run):
    planned = jobs.plan("mine")
    killed = dfnb("run", "mine", "--cores", "1", cwd=small_run)
    while killed.poll() is None and not list(small_run.glob("runs/*/last.ckpt")):
        time.sleep(0.1)
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    assert children and psutil.wait_procs(children, timeout=30)[1] == []
    assert not any(job.done for job in planned)
    again = dfnb("run", "mine", "--cores", "1", cwd=small_run)
    printed = again.communicate()[0].decode()
    assert again.returncode == 0 and all(job.done for job in planned)
    assert "resumed in epoch" in (small_run / planned[0].log).read_text()
    assert "[1/2] xception-smoke-a-s0, " in printed and f"[2/2] {BASELINE}, " in printed


def test_a_failed_job_is_shown_and_a_second_run_waits_for_none(small_run, output_of):
    path = small_run / "notebooks" / f"{BASELINE}.ipynb"
    path.write_text(path.read_text().replace("jobs.trained(p)", "jobs.nothing"))
    status, printed = output_of("run", "mine", "--cores", "1")
    log = small_run / "reports" / "mine" / "logs" / f"{BASELINE}.txt"
    assert status == 1 and f"{BASELINE} failed: AttributeError: " in printed
    assert f"; its log is {log}\n" in printed
    with files.locked(small_run / ".snakemake"):
        status, printed = output_of("run", "mine")
    assert status == 1 and "another process is writing" in printed
