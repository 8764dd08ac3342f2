"""scripts/train_in_background.py with a command that stands for ``dfnb``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import train_in_background as hours

from facesets.checks import DfnbError

# Ends a training, waits until it is copied, ends another, and begins a third.
STAND_IN = """
import os, sys, time
from pathlib import Path

assert sys.argv[1:] == ["run", "mine", "--main"], sys.argv
assert os.environ["DFNB_HOME"] == os.environ["PYTHONPATH"] == os.getcwd()
for folder in ("scores", "records"):
    Path("reports/mine", folder).mkdir(parents=True)
for name in ("first", "second"):
    Path(f"reports/mine/scores/{name}.parquet").write_text(f"scores of {name}")
    Path(f"reports/mine/records/{name}.json").write_text(name)
    copy = Path(CHECKOUT, "reports/mine/records", f"{name}.json")
    while name == "first" and not copy.exists():
        time.sleep(0.01)
Path("reports/mine/scores/third.parquet").touch()  # its record is not there yet
Path("reports/mine/records/10_report.json").touch()  # of no training
sys.exit(3)
"""


def git(folder, *arguments):
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *author, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, whose file says 1."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init")
    (folder / "file").write_text("1")
    git(folder, "add", "file")
    git(folder, "commit", "-m", "one")
    return folder


def test_the_clone_keeps_its_commit_and_what_was_trained(checkout, capsys):
    clone = hours.clone_of(checkout, checkout / ".hours")
    (clone / "runs").mkdir()
    (checkout / "file").write_text("2")
    git(checkout, "commit", "-am", "two")
    assert hours.clone_of(checkout, checkout / ".hours") == clone
    assert (clone / "file").read_text() == "1" and (clone / "runs").exists()
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.endswith(f"in {clone}")


def test_what_has_ended_is_copied_while_the_rest_trains(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(hours, "COPIES_S", 0.05)
    monkeypatch.setattr(hours, "yield_to_others", lambda: None)  # else the tests would
    clone = tmp_path / "clone"
    clone.mkdir()
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(f"CHECKOUT = {str(checkout)!r}\n{STAND_IN}")
    command = (sys.executable, str(stand_in))
    assert hours.run("mine", clone, checkout, "--main", command=command) == 3
    report = checkout / "reports" / "mine"
    copied = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    ended = ("first", "second")
    assert copied == {f"scores/{name}.parquet" for name in ended} | {
        f"records/{name}.json" for name in ended
    }
    assert (report / "scores" / "second.parquet").read_text() == "scores of second"
    later = clone / "reports" / "mine" / "scores" / "first.parquet"
    later.write_text("with measures of a later notebook")
    hours.copy_ended(clone / "reports" / "mine", report)
    assert (report / "scores" / "first.parquet").read_text() == later.read_text()


def test_only_one_process_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(hours, "CHECKOUT", tmp_path)
    monkeypatch.setattr(hours.os, "nice", lambda increment: None)
    program = "import sys; from pathlib import Path; from facesets import files\n"
    program += "with files.locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path / ".hours")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(DfnbError, match="another process"):
            hours.main(["mine"])
        other.stdin.close()
    assert not (tmp_path / ".hours" / "clone").exists()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no autogroups here")
def test_a_kernel_with_a_session_of_its_own_yields_too():
    program = "import sys; from pathlib import Path; from subprocess import PIPE, Popen\n"
    program += "import train_in_background as hours\n"
    program += "with Popen(['cat'], stdin=PIPE, start_new_session=True) as kernel:\n"
    program += "    hours.yield_to_others()\n"
    program += "    print(Path(f'/proc/{kernel.pid}/autogroup').read_text())\n"
    program += "    kernel.stdin.close()\n"
    command = [sys.executable, "-c", program]
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # In a session of its own, as the tests would yield otherwise.
    shown = subprocess.run(
        command, env=own, capture_output=True, text=True, check=True, start_new_session=True
    ).stdout
    assert shown.strip().endswith("nice 19")


def test_the_command_explains_itself():
    command = [sys.executable, hours.__file__, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "In the order to run them" in shown
