"""What machines and users do to a run: kill it, fill its disk, take its rights, start it twice."""

import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import kill_smoke
import numpy as np
import pandas as pd
import pytest
import run as workflow
from snakemake.api import (
    ConfigSettings,
    ExecutionSettings,
    RemoteExecutionSettings,
    ResourceSettings,
    SnakemakeApi,
)
from typer.testing import CliRunner

from dfnb import cli, core, jobs
from dfnb.core import DfnbError
from dfnb.data import frames, prepare

HOLDER = "import sys, time; from pathlib import Path; from dfnb import core\n"
HOLDER += "with core.locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
SLEEPER = "import time; print('works', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, lambda *given: print('asked', flush=True))\n"
STUBBORN += "print('works', flush=True)\nwhile True: signal.pause()"


@pytest.fixture
def started():
    """Starts processes, each with its first line read; what is left of them is killed afterwards."""
    running = []

    def start(*command, line, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        # a suite that runs in the background may ignore Ctrl-C, and hand that on
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
        running.append(subprocess.Popen([sys.executable, *command], **pipes, **options))
        assert running[-1].stdout.readline() == f"{line}\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def module(folder, name, source):
    (folder / f"{name}.py").write_text(source)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_job_ends_with_what_holds_the_lock_and_nothing_begins_before(checkout, tmp_path, started, number):
    """However the holder ends; a job that does not end by itself is killed when its grace is over."""
    holder = started("-c", HOLDER, str(tmp_path), line="held", env=module(tmp_path, "sleeper", SLEEPER))
    environment = module(tmp_path, "stubborn", STUBBORN) | {"DFNB_LOCK": str(tmp_path / ".lock"), "DFNB_GRACE_S": "1"}
    options = {"line": "works", "env": environment, "cwd": tmp_path}
    sleeper, stubborn = (
        started(checkout / "workflow" / "job.py", "runs", "0", each, **options) for each in ("sleeper", "stubborn")
    )
    with (
        pytest.raises(DfnbError, match=r"another process is writing .*; wait for it or stop it"),
        core.locked(tmp_path),
    ):
        pass
    holder.send_signal(number)
    assert sleeper.wait(60) == -signal.SIGTERM and stubborn.stdout.readline() == "asked\n"
    with pytest.raises(DfnbError, match="another process"), core.locked(tmp_path):
        pass  # the second still holds it
    assert stubborn.wait(60) == -signal.SIGKILL
    with core.locked(tmp_path):
        pass


def test_a_job_without_a_workflow_runs_alone(checkout, tmp_path, started):
    """By hand or on a cluster there is no lock."""
    environment = module(tmp_path, "sleeper", SLEEPER)
    environment.pop("DFNB_LOCK", None)
    alone = started(checkout / "workflow/job.py", "runs", "0", "sleeper", line="works", env=environment, cwd=tmp_path)
    assert alone.poll() is None


def test_the_script_that_kills_finds_what_is_left(tmp_path, started, monkeypatch):
    """A process of the home that outlives its run, however it was started; and none of another home."""
    monkeypatch.setattr(kill_smoke, "LEFT_OVER_S", 0)
    environment = {**os.environ, "DFNB_HOME": str(tmp_path)}
    orphan = started("-c", SLEEPER, line="works", env=environment, start_new_session=True)
    assert not kill_smoke.left(tmp_path / "other") and len(kill_smoke.left(tmp_path)) == 1
    assert kill_smoke.kill_one(tmp_path, random.Random(0)) == orphan.pid
    assert orphan.wait() == -signal.SIGKILL
    assert not kill_smoke.left(tmp_path) and not kill_smoke.kill_one(tmp_path, random.Random(0))


def test_the_script_that_kills_resumes_until_all_is_done_and_leaves_nothing(tmp_path, started, monkeypatch):
    """Of three runs the first is killed, the second fails and the third ends well, beside which a process was left."""
    monkeypatch.setattr(kill_smoke, "LEFT_OVER_S", 0)
    environment = {**os.environ, "DFNB_HOME": str(tmp_path)}
    runs = iter([SLEEPER, "print('works'); raise SystemExit(1)", "print('works')"])
    monkeypatch.setattr(kill_smoke, "start", lambda home: started("-c", next(runs), line="works", env=environment))
    assert kill_smoke.killed(tmp_path, 1, random.Random(0), 0) == (1, []) and next(runs, None) is None
    orphan = started("-c", SLEEPER, line="works", env=environment, start_new_session=True)
    runs = iter(["print('works')"])
    hits, found = kill_smoke.killed(tmp_path, 0, random.Random(0), 0)
    assert hits == 0 and len(found) == 1 and orphan.wait() == -signal.SIGKILL


def test_the_workers_of_a_killed_command_end(tmp_path, monkeypatch):
    """They would draw on for minutes in a folder that the next command takes up."""
    monkeypatch.setattr(kill_smoke, "LEFT_OVER_S", 100)
    environment = {**os.environ, "DFNB_HOME": str(tmp_path)}
    made = subprocess.Popen([sys.executable, "-m", "dfnb.cli", "synth", "synth-a", "--workers", "2"], env=environment)
    while not any(tmp_path.rglob("frames.npy")) and made.poll() is None:
        time.sleep(0.1)
    assert len(kill_smoke.processes(tmp_path)) > 2
    made.kill()
    made.wait()
    assert kill_smoke.left(tmp_path) == []


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(workflow, "LEFT_OVER_S", 0)
    core.code.cache_clear()  # another home may have had profiles of its own
    return tmp_path / "home"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_workflow_that_is_asked_to_end_does_and_frees_its_home(empty_home, checkout, started, number, status):
    code = f"import sys, time; sys.path.append({str(checkout / 'workflow')!r}); import run; from dfnb import cli\n"
    code += "run.do_jobs = lambda *given: print('works', flush=True) or time.sleep(600)\n"
    code += "sys.argv = ['dfnb', 'run', 'smoke']; cli.app()"
    asked = started("-c", code, line="works")
    with pytest.raises(DfnbError, match="another process"), core.locked(empty_home / "runs"):
        pass
    asked.send_signal(number)
    assert asked.wait() == status
    with core.locked(empty_home / "runs"):
        pass


def test_a_second_workflow_in_a_home_says_so(empty_home, monkeypatch):
    monkeypatch.setattr(workflow, "do_jobs", lambda *given: pytest.fail("worked beside the first"))
    with core.locked(empty_home / "runs"):
        second = CliRunner().invoke(cli.app, ["run", "smoke"])
    assert second.exit_code == 1
    assert (
        second.stderr
        == f"dfnb: another process is writing {empty_home / 'runs'}; wait for it or stop it, then start again\n"
    )


def test_a_home_that_takes_no_files_is_said_in_a_sentence(empty_home):
    empty_home.touch()
    done = CliRunner().invoke(cli.app, ["run", "smoke"])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"dfnb: {empty_home / 'runs'} cannot be written ([Errno 20] Not a directory")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder in which not even root may make files")
@pytest.mark.parametrize(
    "command", ["run smoke", "train smoke xception-smoke-a-s0", "synth smoke-a", "prepare videos mine"]
)
def test_a_home_that_can_only_be_read_is_said_in_a_sentence(tmp_path, monkeypatch, command):
    core.write_bytes(tmp_path / "videos/real/a.mp4", b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFNB_HOME", "/sys/dfnb")
    monkeypatch.setattr(prepare, "detector_path", lambda: tmp_path / "detector")
    monkeypatch.setattr(prepare, "YuNet", lambda path: SimpleNamespace(sha256="0"))
    done = CliRunner().invoke(cli.app, command.split())
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert re.match(r"dfnb: /sys/dfnb/\S+ cannot be written \(\[Errno \d+\] .*\): make room, or make", done.stderr)


def test_a_workflow_that_fails_before_any_job_says_why(empty_home, monkeypatch):
    """Snakemake's own error, or the rules that it names, since no job has left a log."""
    real, started = subprocess.run, []

    def run(command, **options):
        started.append(options)
        return real([sys.executable, "-c", f"raise SystemExit({said!r})"], **options)

    monkeypatch.setattr(subprocess, "run", run)
    causes = {"OSError: [Errno 28] No space left\nBye": "OSError: [Errno 28] No space left"}
    causes["WorkflowError:\nThere is no such file."] = "WorkflowError: There is no such file."
    causes["Error in rule one:\n    message: None\nWorkflowError:\nAt least one job failed."] = "Error in rule one"
    for text, cause in causes.items():
        said = text  # which `run` raises
        done = CliRunner().invoke(cli.app, ["run", "smoke"])
        assert done.exit_code == 1
        assert done.stderr == f"dfnb: profile smoke did not end; {cause}\n"
    assert started[0]["env"]["DFNB_LOCK"] == str(empty_home / "runs" / ".lock") and started[0]["start_new_session"]
    log = jobs.jobs("smoke")[0].log
    log.parent.mkdir(parents=True)
    log.touch()
    ended = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", lambda command, **options: real([sys.executable, "-c", ended], **options))
        done = CliRunner().invoke(cli.app, ["run", "smoke"])
    assert done.stderr.endswith("was ended by signal 9; start again, it goes on where it was\n") and done.exit_code == 1
    assert f"is in {log.relative_to(empty_home)}\n" in CliRunner().invoke(cli.app, ["run", "smoke"]).stderr


def test_what_is_done_is_known_without_torch_until_something_changed(empty_home, monkeypatch):
    """The code, a record, a dataset, a paper of one's own: whatever a job could depend on is looked at again then."""
    record, dataset = empty_home / "runs/notebooks/smoke/01_data/record.json", empty_home / "datasets/own/record.json"
    for path in (record, dataset):
        core.write_bytes(path, b"{}")
    seen = empty_home / "runs/notebooks/smoke.json"
    core.write_json(seen, workflow.as_seen([record]))
    code = "import atexit, sys; atexit.register(lambda: print(sorted({'torch', 'pandas'} & set(sys.modules))))\n"
    code += "sys.argv = ['dfnb', 'run', 'smoke']; from dfnb.cli import app; app()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "profile smoke: all is done" and lines[-1] == "[]" and not done.returncode, done.stderr

    looked = []
    monkeypatch.setattr(workflow, "do_jobs", lambda *given: looked.append(given) or True)

    def again():
        CliRunner().invoke(cli.app, ["run", "smoke"])
        return len(looked)

    assert again() == 0
    core.write_bytes(record, b'{"files": {}}')
    assert again() == 1
    core.write_json(seen, workflow.as_seen([record]))
    core.write_bytes(empty_home / "papers" / "mine.py", b"VERSION = 1")
    assert again() == 2
    core.write_json(seen, workflow.as_seen([record]))
    dataset.unlink()
    assert again() == 3
    core.write_json(seen, workflow.as_seen([record]))
    monkeypatch.setattr(core, "code", lambda: "other")
    assert again() == 4


def test_a_workflow_of_another_version_in_the_home_is_not_used(empty_home, checkout):
    """Such as an older one without run.py; profiles and manifests of a home's own are."""
    for name in ("workflow/Snakefile", "notebooks/profiles/smoke.yaml"):
        core.write_bytes(empty_home / name, b"")
    core.write_json(empty_home / "runs/notebooks/smoke.json", workflow.as_seen([]))
    code = "import sys; sys.argv = ['dfnb', 'run', 'smoke']; from dfnb.cli import app; app()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("profile smoke: all is done") and not done.returncode, done.stderr
    assert core.find("workflow") == checkout / "workflow" and core.find("notebooks") == empty_home / "notebooks"


def rules(home, profile):
    """The rules that Snakemake reads from the Snakefile, by name."""
    config, file = ConfigSettings(config={"profile": profile}), core.find("workflow") / "Snakefile"
    with SnakemakeApi() as api:
        flow = api.workflow(ResourceSettings(cores=1), config, snakefile=file, workdir=home)._workflow
        # what a rule does not say is what Snakemake does unless told otherwise
        flow.execution_settings, flow.remote_execution_settings = ExecutionSettings(), RemoteExecutionSettings()
        return {rule.name: rule for rule in flow.rules}


def test_a_notebook_that_hangs_or_fails_is_executed_once_more_and_a_training_is_not(empty_home, monkeypatch):
    """An hour without an answer of a cell ends a notebook; a day where it makes datasets, or trains itself."""
    monkeypatch.chdir(empty_home.parent)  # Snakemake goes to the home
    planned, hour = jobs.jobs("smoke"), 3600
    found = rules(empty_home, "smoke")
    assert {*found} == {"all", *(job.id for job in planned)}
    for job in planned:
        rule = found[job.id]
        assert rule.restart_times == (0 if job.trains else 1)
        assert ("--execution-timeout {params.timeout} " in rule.shellcmd) == (not job.trains)
        if not job.trains:
            assert rule.params.timeout == (24 * hour if job.notebook == "01_data" else hour), job.id
    first = next(job.record for job in planned if job.trains)
    core.write_json(first, {"parameters": {}, "outputs": {}})  # it ended before: then none makes the control of 07
    slow = {name for name, rule in rules(empty_home, "smoke").items() if rule.params.get("timeout") == 24 * hour}
    assert slow == {"01_data", "07_attribution"}


LOCALES = [
    ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"report: "),
    ({"PYTHONIOENCODING": "latin-1", "TZ": "Pacific/Kiritimati"}, "? ± ?".encode("latin-1")),
    ({"PYTHONIOENCODING": "utf-8"}, "Δ ± –".encode()),
]


@pytest.mark.parametrize(("locale", "shown"), LOCALES, ids=["C", "latin-1", "utf-8"])
def test_another_locale_and_a_home_with_spaces_and_accents_change_nothing_but_unknown_letters(tmp_path, locale, shown):
    home = tmp_path / "a home é Δ"
    core.write_json(home / "runs/x.json", {"é": "Δ"})
    core.write_bytes(home / "reports/smoke/tables/cross_dataset.md", "| Δ ± – |\n".encode())
    code = "from dfnb import cli, core; path = core.home() / 'runs/x.json'; assert core.read_json(path) == {'é': 'Δ'}\n"
    code += "run = cli.workflow('run')\n"
    code += "core.write_json(core.home() / 'runs/notebooks/smoke.json', run.as_seen([path]))\n"
    code += "import sys; sys.argv = ['dfnb', 'run', 'smoke']; cli.app()"
    (tmp_path / "script.py").write_text(code, encoding="utf-8")  # an argument would be in the locale's letters
    environment = {**os.environ, "DFNB_HOME": str(home), **locale}
    done = subprocess.run([sys.executable, tmp_path / "script.py"], env=environment, capture_output=True)
    assert not done.returncode and shown in done.stdout and b"all is done" in done.stdout, done.stderr


WRITERS = {
    "text": lambda path, n: core.write_bytes(path, b"x" * n),
    "table": lambda path, n: core.write_table(path, pd.DataFrame({"x": np.random.default_rng(0).random(n)}), {}),
    "array": lambda path, n: save_array(path, n),
}


def save_array(path, n):
    with core.atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ones(n))


def on_a_full_disk(write, path, answers):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write(path, 100_000)
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("kind", WRITERS)
def test_on_a_full_disk_the_old_file_stays_whole(tmp_path, kind):
    path = tmp_path / f"file.{kind}"
    WRITERS[kind](path, 10)
    before, context = path.read_bytes(), get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=on_a_full_disk, args=(WRITERS[kind], path, answers))
    process.start()
    process.join()
    assert answers.get().startswith(f"DfnbError: {path} cannot be written (")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    WRITERS[kind](path, 100_000)
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_takes_no_files_is_named_and_other_errors_are_themselves(tmp_path, number):
    with pytest.raises(DfnbError, match=r"x cannot be written \(.*\): make room"), core.atomic(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError), core.atomic(tmp_path / "x"):
        (tmp_path / "source").read_bytes()
    assert not list(tmp_path.iterdir())


def a_record(folder):
    core.write_record(folder, {"seed": 3}, [], auc=0.75, log=[{"epoch": 1, "loss_total": 0.7}])
    return folder / "record.json", lambda: core.read_record(folder)


def a_table(folder):
    table = pd.DataFrame({"video": ["a", "b"], "score": [0.25, 0.75], "label": [0, 1]})
    core.write_table(folder / "x.parquet", table, {"run": "x"})
    return folder / "x.parquet", lambda: core.read_table(folder / "x.parquet")


def some_frames(folder):
    row = {"dataset": "x", "split": "test", "track": 0, "frame": 0, "cluster": "c", "identity": "", "source": ""}
    row |= {"scale": 1.0, "landmarks": None, "crop_box": None, "label": 0, "method": "real"}
    frames.write_video(folder / "videos/a", [row], np.zeros((1, 8, 8, 3), np.uint8), None)
    frames.write_dataset(folder, {})
    return folder / "frames.parquet", lambda: frames.load_frames(folder)


def a_video(folder):
    core.write_json(folder / "video.json", {"rows": [{"frame": i, "box": [0, i]} for i in range(40)]}, indent=None)
    return folder / "video.json", lambda: core.read_json(folder / "video.json")


@pytest.mark.parametrize("make", [a_record, a_table, a_video, some_frames])
def test_a_file_with_a_flipped_bit_or_cut_off_is_never_used_with_other_content(tmp_path, make):
    """At any place: also where a file says what its numbers mean, which no checksum of parquet covers."""
    path, read = make(tmp_path)
    content, draw = path.read_bytes(), random.Random(0)
    sound, found = read(), [match.start() for match in re.finditer(rb"score|video|frame|seed|auc|0\.7", content)]
    places = {*found, *draw.sample(range(len(content)), 100)}
    damaged = [
        content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :] for place in places
    ]
    refused = 0
    for each in [*damaged, *(content[: int(len(content) * share)] for share in (0, 0.1, 0.5, 0.99))]:
        path.write_bytes(each)
        try:
            other = read()
        except DfnbError as error:
            refused += 1
            assert str(path) in str(error) and "delete " in str(error) and "\n" not in str(error)
            continue
        if isinstance(sound, dict):
            assert all(other[name] == sound[name] for name in sound)
        else:
            pd.testing.assert_frame_equal(other, sound, check_exact=True)
            assert other.attrs == sound.attrs
    assert refused > 0.9 * len(damaged) and found


def test_files_from_before_there_were_seals_are_read(tmp_path):
    """And what is written is sealed again, as where a record is put back from a report."""
    path, read = a_record(tmp_path)
    record, sealed = read(), path.read_bytes()
    path.write_text(json.dumps(record), encoding="utf-8")
    assert read() == record
    core.write_json(path, record)
    assert path.read_bytes() == sealed
    core.write_json(path, record | {"auc": 0.5})
    assert read()["auc"] == 0.5
    named = {"seal": {"a": "0" * 64}}  # an arm may have this name
    core.write_json(path, named)
    assert core.read_json(path) == named
    older = tmp_path / "runs.json"  # its records once had seals of their own
    core.write_json(older, {"a": record | {"seal": "1" * 64}, "b": record | {"seal": "2" * 64}}, indent=None)
    held = core.read_json(older)
    core.write_json(tmp_path / "again.json", held, indent=None)
    assert (tmp_path / "again.json").read_bytes() == older.read_bytes()
    write_with(older, b'"auc":0.75', b'"auc":0.95')
    with pytest.raises(DfnbError, match=r"runs\.json is not valid JSON \(ValueError: it was altered"):
        core.read_json(older)


def write_with(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
