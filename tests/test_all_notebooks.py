"""A profile as a user runs it: ``dfnb run``, with Snakemake, papermill and kernels of their own.

One training and two notebooks: tests/test_notebooks.py executes all others in its own process.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import foreign
import psutil
import pytest
import yaml
from typer.testing import CliRunner

import notebooks
from dfnb import cli
from dfnb.running import planning
from facesets import files

NOTEBOOKS = ("02_xception_baseline", "10_report")


def write_short_profile(checkout, home):
    """The profile ``mine`` of a home: smoke without most of its notebooks and its variants."""
    profile = yaml.safe_load((checkout / "notebooks/profiles/smoke.yaml").read_text("utf-8"))
    others = dict.fromkeys(profile["notebooks"])  # None: those of the profile small are left out
    profile["notebooks"] = others | {name: profile["notebooks"][name] for name in NOTEBOOKS}
    profile["notebooks"]["02_xception_baseline"]["epochs"] = 12  # long enough to be stopped
    del profile["variants"]
    path = home / "notebooks" / "profiles" / "mine.yaml"
    files.write_bytes(path, yaml.safe_dump(profile, sort_keys=False).encode())


@pytest.fixture
def home(checkout, smoke_home, tmp_path_factory, monkeypatch):
    """A fresh home with the profile ``mine``; its name has a space and an accent."""
    folder = tmp_path_factory.mktemp("höme of a run")
    write_short_profile(checkout, folder)
    shutil.copytree(smoke_home / "datasets", folder / "datasets")
    monkeypatch.setenv("DFNB_HOME", str(folder))
    return folder


def test_a_profile_that_is_stopped_twice_runs_whole_and_only_once(home, tmp_path, monkeypatch):
    """Started from another folder; stopped while it trains, then while a notebook runs.

    No process of it stays, nothing that was finished is repeated, and no file of others is touched.
    """
    command = [sys.executable, "-m", "dfnb.cli", "run", "mine", "--cores", "2"]
    calls = planning.plan("mine")
    (training,) = calls.trainings
    planned = [training, *calls.shown]
    report = home / "reports" / "mine"
    log_of_training, *logs_of_notebooks = [report / "logs" / f"{call.name}.txt" for call in planned]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parts = [report / name for name in ("", "scores", "tables", "figures", "logs", "notebooks")]
    around = foreign.scatter(home, home / "runs", home / "datasets/smoke-a", *parts)
    mine = report / "notebooks" / "mine.ipynb"  # executed by papermill, as ours are
    executed = {"metadata": {"papermill": {"start_time": ""}}, "nbformat": 4, "cells": []}
    files.write_json(mine, executed)
    around[mine] = mine.read_bytes()

    def is_training():
        return list(home.glob("runs/*/last.ckpt"))

    def is_in_a_notebook():
        return any(log.exists() for log in logs_of_notebooks)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    stops = (
        (is_training, signal.SIGINT, 1, []),  # Ctrl-C
        (is_in_a_notebook, signal.SIGKILL, -signal.SIGKILL, [training]),
    )
    for is_reached, number, status, finished in stops:
        stopped = subprocess.Popen(command, cwd=elsewhere, start_new_session=True, **pipes)
        while not is_reached():
            assert stopped.poll() is None
            time.sleep(0.1)
        children = psutil.Process(stopped.pid).children(recursive=True)
        if number == signal.SIGINT:  # which a terminal sends to all
            os.killpg(stopped.pid, number)
        else:
            stopped.send_signal(number)
        printed = stopped.communicate()[1]
        assert stopped.returncode == status and "Traceback" not in printed
        assert children and psutil.wait_procs(children, timeout=30)[1] == []
        assert [call for call in planned if call.done] == finished
    assert "resumed in epoch" in log_of_training.read_text(encoding="utf-8")
    trained_at = (home / training.record).stat().st_mtime_ns

    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout == f"report: {report / 'index.html'}\n"
    assert not list(elsewhere.iterdir())
    assert trained_at == (home / training.record).stat().st_mtime_ns
    for call in calls.shown:
        assert done.stderr.count(f"executed: {home / call.executed}\n") == 1
    for call in calls.shown:
        notebooks.check_executed(report / "notebooks" / f"{call.name}.ipynb")
        assert files.read_json(home / call.record)["parameters"] == call.parameters.model_dump(
            mode="json"
        )
    check_links(report / "index.html")
    times = {call.name: (home / call.record).stat().st_mtime_ns for call in planned}
    monkeypatch.chdir(elsewhere)
    again = CliRunner().invoke(cli.commands, ["run", "mine", "--cores", "2"])
    assert again.exit_code == 0 and again.stdout == done.stdout
    assert times == {call.name: (home / call.record).stat().st_mtime_ns for call in planned}
    foreign.check_untouched(around)


def check_links(page):
    """Every link of a page leads somewhere."""
    text = page.read_text(encoding="utf-8")
    anchors = set(re.findall(r'id="([^"]+)"', text))
    folder = page.parent / "notebooks"  # the base of its links
    for link in re.findall(r'(?:src|<a [^>]*href)="(?!data:)([^"]+)"', text):
        assert link[1:] in anchors if link.startswith("#") else (folder / link).exists(), link
