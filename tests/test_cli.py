"""The command as a user meets it: bad input, a kill, a full disk, two at once."""

import logging
import os
import resource
import shutil
import subprocess
import sys
from importlib.metadata import version

import clips
import nbformat
import pytest
from profiles import BASELINE, SETTINGS, SHARED, write_profile
from typer.main import get_command

from dfnb.cli import app, commands
from dfnb.papers import backbones
from dfnb.results.page import REPORT
from dfnb.running import workflow
from facesets import files, prepare
from facesets.checks import DfnbError


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
        (("report", "../x"), "../x"),
        (("report", "nope"), "there is no report "),
        (("report", "logs"), "there is no report "),
        (("prepare", "nowhere"), "nowhere"),
        (("prepare", "celeb-df"), "did you mean celeb-df-v2 or "),
        (("prepare", "celeb-df-v2"), "celeb-df-v2 needs --root"),
        (("prepare", "nowhere.csv"), "there is no file or folder nowhere.csv"),
        (("prepare", "set.csv", "--set", "size"), "write KEY=VALUE, as in --set size=256"),
        (("prepare", "set.csv", "celeb-df-v2"), "celeb-df-v2 is another dataset, which"),
        (("prepare", "uadfv", "portraits", "--root", "."), "made from uadfv a name of its own"),
        (("synth", "smoke-a", "--name", "dfd"), "made from smoke-a a name of its own"),
    ],
)
def test_bad_input_ends_in_one_sentence(own_home, output_of, words, sentence, monkeypatch):
    monkeypatch.chdir(own_home)
    write_profile(own_home)
    shutil.copytree(files.find("data_manifest"), own_home / "data_manifest")
    (own_home / "reports" / "logs").mkdir(parents=True)
    (own_home / "set.csv").write_text("path,label\nset.csv,real\n")
    status, printed = output_of(*words)
    last = printed.splitlines()[-1]
    assert status == 1 and last.startswith("dfnb: ") and sentence in last
    assert "Traceback" not in printed


def test_what_another_library_raises_is_one_sentence_and_its_traceback_is_kept(
    own_home, output_of, monkeypatch
):
    def out_of_memory(*_, **__):
        raise RuntimeError("A worker ended.\nIt had too little memory.")

    monkeypatch.setattr(workflow, "run", out_of_memory)
    status, printed = output_of("run", "demo")
    assert status == 1 and "Traceback" not in printed
    sentence = "dfnb: RuntimeError: A worker ended. It had too little memory. (the traceback is in"
    assert printed.splitlines()[-1].startswith(sentence)
    path = own_home / "cache" / "last-error.txt"
    assert "in out_of_memory" in path.read_text()
    assert f"last error: {path}" in output_of("doctor")[1]


def test_every_option_and_argument_has_a_help():
    for name, command in get_command(commands).commands.items():
        for each in command.params:
            assert each.help, (name, each.name)


def test_the_version_is_that_of_the_package(output_of):
    assert output_of("--version") == (0, f"dfnb {version('dfnb')}\n")


def test_two_manifests_of_one_dataset_are_both_named(own_home, output_of):
    manifests = own_home / "data_manifest"
    shutil.copytree(files.find("data_manifest"), manifests)
    shutil.copy(manifests / "published" / "uadfv.yaml", manifests / "uadfv.yaml")
    for words in (("prepare", "uadfv", "--root", "."), ("data",)):
        printed = output_of(*words)[1]
        assert f"{manifests}/published/uadfv.yaml and {manifests}/uadfv.yaml both" in printed


LIGHT = ["--help", "synth synth-z"]


@pytest.mark.parametrize("words", LIGHT)
def test_help_and_the_refusal_of_mistyped_names_need_no_torch(own_home, words):
    code = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
from dfnb.cli import app
app()
"""
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.endswith("False\n") and bool(done.returncode) == (words != "--help")
    assert "Traceback" not in done.stderr


def test_losses_end_with_0_and_what_cannot_be_used_with_1(empty_home, output_of, monkeypatch):
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    for name in ("real/a", "fake/swap/b"):
        clips.write(empty_home / f"in/{name}.mp4", clips.moving(3))
    (empty_home / "in/real/bad.mp4").touch()
    words = ("prepare", str(empty_home / "in"), "--set", "min_face=16")
    status, printed = output_of(*words, "lossy")
    assert status == 0 and "truncated or damaged" in printed and "1 (real/bad)" in printed
    (empty_home / "in/fake/swap/b.mp4").unlink()
    status, printed = output_of(*words, "real")
    assert status == 1 and "real can use real videos alone" in printed
    assert output_of(*words, "real", "--one-class")[0] == 0


def test_a_folder_with_a_dot_names_its_dataset_and_is_its_own_root(
    empty_home, output_of, monkeypatch
):
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    clips.write(empty_home / "mine.v2/real/a.mp4", clips.moving(3))
    words = ("prepare", str(empty_home / "mine.v2"), "--one-class", "--set", "min_face=16")
    assert output_of(*words)[0] == 0 and (empty_home / "datasets/mine.v2/record.json").exists()
    status, printed = output_of(*words, "--root", str(empty_home))
    assert status == 1 and "a folder is its own root" in printed


def test_a_tilde_that_the_shell_leaves_is_the_user_s_folder(empty_home, output_of, monkeypatch):
    """As in ``--root=~/clips``."""
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    monkeypatch.setenv("HOME", str(empty_home / "user"))
    clips.write(empty_home / "user" / "clips" / "real" / "a.mp4", clips.moving(3))
    listed = empty_home / "user" / "clips.csv"
    listed.write_text("path,label\nclips/real/a.mp4,real\n", encoding="utf-8")
    words = ("--one-class", "--set", "min_face=16")
    assert output_of("prepare", "~/clips", "folder", *words)[0] == 0
    assert output_of("prepare", "~/clips.csv", "listed", "--root=~/clips", *words)[0] == 0
    status, printed = output_of("synth", "ff-like", "--portraits=~/none", "--name", "mine")
    assert status == 1 and f"no folder {empty_home / 'user' / 'none'}" in printed
    assert files.dataset_folder("~/made") == empty_home / "user" / "made"
    assert files.named_file("~/a.pth") == empty_home / "user" / "a.pth"


def test_a_damaged_table_is_made_again(own_home, output_of, smoke_home):
    (own_home / "datasets").unlink()
    shutil.copytree(smoke_home / "datasets", own_home / "datasets")
    table = own_home / "datasets" / "smoke-b" / "frames.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    assert output_of("synth", "smoke-b")[0] == 0
    assert table.read_bytes() == whole


def test_what_a_report_of_a_problem_needs_is_printed(empty_home, output_of):
    status, printed = output_of("doctor")
    facts = dict(line.split(": ", 1) for line in printed.splitlines())
    assert status == 0 and {"dfnb", "torch", "python", "device", "workers", "threads"} <= {*facts}
    assert facts["home"] == str(empty_home)


def test_no_python_file_of_a_home_is_executed(tmp_path, output_of, monkeypatch):
    """Somebody else's folder, in which a command is started."""
    for name in ("data_manifest", "papers", "dfnb/papers"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("papers", "dfnb/papers"):
        (tmp_path / name / "theirs.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DFNB_HOME", raising=False)
    _, printed = output_of("run", "smoke", "--dry-run")
    assert "SystemExit" not in printed


def test_offline_a_run_is_refused_in_one_line(own_home, output_of, monkeypatch):
    asked = []

    def offline(url):
        asked.append(url)
        logging.getLogger("a library").warning("retrying")
        raise OSError("no network")

    monkeypatch.setattr(backbones, "get_hf_file_metadata", offline)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repository, name: None)
    backbone = {**SETTINGS, "backbone": "resnet10t"}
    write_profile(own_home, {**SHARED, "seeds": [0, 1]}, {BASELINE: backbone})
    status, printed = output_of("run", "mine")
    sentence = "dfnb: the pretrained weights of resnet10t cannot be fetched (no network); run this"
    assert status == 1 and printed.startswith(sentence) and "\n" not in printed
    assert len(asked) == 1


def test_a_full_disk_is_explained(tmp_path):
    """No file may grow beyond 9 kB here."""
    limits = (9_000, 9_000)
    process = dfnb(
        "synth",
        "smoke-b",
        # It must not leave compiled modules that end after 9 kB.
        env={**os.environ, "DFNB_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    printed = process.communicate()[1].decode()
    assert process.returncode == 1 and "cannot be written (" in printed and "make room" in printed
    assert "Traceback" not in printed


def write_notebook(home, name, code):
    """A notebook with the parameter ``profile`` and this code."""
    parameters = nbformat.v4.new_code_cell('profile = "mine"', metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [parameters, nbformat.v4.new_code_cell(code)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, home / "notebooks" / f"{name}.ipynb")


def test_the_log_of_a_failed_job_is_named_and_a_second_run_waits_for_none(own_home, capfd):
    write_profile(own_home, notebooks={REPORT: {}})  # trains nothing
    code = "from facesets.checks import DfnbError; raise DfnbError('a sentence')"
    write_notebook(own_home, REPORT, code)
    with pytest.raises(DfnbError, match="mine did not finish"):
        workflow.run("mine", cores=1)
    log = f"reports/mine/logs/{REPORT}.txt"
    assert log in capfd.readouterr().err
    # By its end: a kernel that is shut down may log that its sockets are closed.
    assert (own_home / log).read_text().endswith("a sentence\n")
    message = "another process is writing"
    with files.locked(own_home / ".snakemake"), pytest.raises(DfnbError, match=message):
        workflow.run("mine", cores=1)
