"""CONTRIBUTING, typed in as written: a paper of 40 lines, a copy of notebook 02, a claim and a table join every report."""

import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import papermill
import pytest
from scipy.special import expit
from sklearn.metrics import roc_curve

from dfnb import core, jobs, metrics, page, papers, scores, tables, train
from dfnb.attribution import measures
from dfnb.data.frames import FrameDataset, load_frames, select

PAIRS = '''"""The same, trained on real frames and on fakes that it makes of them."""

from typing import ClassVar

import cv2
import numpy as np
import pandas as pd

from dfnb import papers
from dfnb.data.frames import Sample
from dfnb.papers import frequency
from dfnb.papers.frequency import Network

PAPER = papers.Paper("Frequency pairs", "12_pairs", "Frequency pairs", "#7f7f7f", "^")
VERSION = 1


class Settings(frequency.Settings):
    """Every real frame is shown together with a fake made of it."""

    samples_per_frame: ClassVar[int] = 2

    def visible(self, frames: pd.DataFrame, seed: int, start: papers.Run | None) -> pd.DataFrame:
        return frames[frames["label"] == 0]

    def samples(self, sample: Sample, draw: np.random.Generator) -> list[Sample]:
        mask = np.zeros_like(sample.mask)
        top, left = draw.integers(0, 40, 2)
        mask[top : top + 48, left : left + 48] = True
        image = np.where(mask[..., None], cv2.blur(sample.image, (5, 5)), sample.image)
        return [sample, sample._replace(image=image, mask=mask, label=1, has_mask=True)]
'''


@pytest.fixture(scope="module")
def written(checkout):
    """The code blocks of CONTRIBUTING that name a file in their first line, by that line; and its commands, by the first word."""
    text = (checkout / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(?:# (\S+\.\w+[^\n]*)\n)?(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return {place or code.split()[0]: code for _, place, code in blocks}


@pytest.fixture(scope="module")
def home(smoke_home, tmp_path_factory, checkout, written):
    """A home with two papers, a profile, a claim and a notebook of a reader's own, and nothing else but data."""
    home = tmp_path_factory.mktemp("contract")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    shutil.copytree(checkout / "data_manifest", home / "data_manifest")
    with (home / "data_manifest" / "claims.yaml").open("a", encoding="utf-8") as file:
        file.write(written["data_manifest/claims.yaml, at the end"])
    contents = {name: written[name] for name in ("papers/frequency.py", "notebooks/profiles/mine.yaml")}
    for path, content in {**contents, "papers/frequency_pairs.py": PAIRS}.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(content, encoding="utf-8")
    shutil.copy(checkout / "notebooks" / "02_xception_baseline.ipynb", home / "notebooks")
    subprocess.run(["bash", "-c", written["sed"]], cwd=home, check=True)
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        patch.setattr(papers, "__path__", [*papers.__path__, str(home / "papers")])
        yield home
    for name in set(sys.modules) - known:
        if name.startswith("dfnb.papers."):
            del sys.modules[name]


@pytest.fixture(scope="module")
def book(home):
    """The report of the profile, all trainings done."""
    for job in jobs.jobs("mine"):
        if job.trains:
            jobs.train_job("mine", job.id)
    run = jobs.lines("mine")[0].runs[0]
    measures.measure(run, measures.sample("smoke-a", 1), "Grad-CAM")
    jobs.publish("mine")
    return tables.Book("mine")


def test_the_paper_is_short_and_found_by_being_there(home):
    lines = (home / "papers" / "frequency.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert papers.names()[-2:] == ["frequency", "frequency_pairs"]
    assert papers.notebooks()["11_frequency"] == "frequency"
    assert [job.id for job in jobs.jobs("mine")] == [
        "frequency-smoke-a-s0",
        "frequency-smoke-a-s1",
        "frequency-smoke-a-widths-narrow-s0",
        "11_frequency",
    ]


def test_it_stands_in_the_tables(book):
    main = book.table("cross_dataset")
    assert list(main.index) == ["Frequency"] and {"smoke-a", "smoke-b"} <= set(main.columns)
    assert main.loc["Frequency", "smoke-a"].endswith("]")
    results = book.results
    assert set(results.loc[results["arm"] == "narrow", "group"]) == {"widths"}
    assert (results["minus"] != "").any()


def test_the_table_is_made_of_its_entry_alone(book, written, tmp_path, monkeypatch):
    text = tables.MANIFEST.read_text(encoding="utf-8")
    entry = "\ntables:\n" + written["dfnb/tables.yaml, under tables:"]
    monkeypatch.setattr(tables, "MANIFEST", tmp_path / "tables.yaml")
    tables.MANIFEST.write_text(text.replace("\ntables:\n", entry, 1), encoding="utf-8")
    fresh = tables.Book("mine")
    table = fresh.table("errors")
    assert list(table.index) == ["Frequency"] and {"smoke-a", "smoke-b"} <= set(table.columns)
    assert table.loc["Frequency", "seeds"] == 2
    for test_set in ("smoke-a", "smoke-b"):
        read = scores.Report("mine").read(book.report.lines()[0], test_set)
        videos = [frames.groupby("video", observed=True)[["label", "score"]].mean() for frames in read]
        curves = [roc_curve(of["label"], of["score"], drop_intermediate=False) for of in videos]
        errors = [np.interp(0, fpr + tpr - 1, fpr) for fpr, tpr, _ in curves]
        shown = table.loc["Frequency", test_set].split()[0]
        assert shown == f"{np.mean(errors):.{len(shown) - 2}f}"
    assert {path.name for path in fresh.saved} == {f"errors.{suffix}" for suffix in ("csv", "md", "tex", "txt")}
    assert fresh.saved[-1].read_text(encoding="utf-8").startswith("Equal error rate of videos. Trained on smoke-a")
    fresh.show("errors")
    assert 'id="tables-errors"' in page.rebuild("mine").read_text(encoding="utf-8")


def test_it_is_attributed(book):
    table = book.table("attribution").reset_index()
    assert set(zip(table["line"], table["map"])) == {("Frequency", "Grad-CAM"), ("mean training mask", "none")}
    values = scores.Report("mine").read(book.report.lines()[0], "smoke-a", "map Grad-CAM")[0]
    assert values["deletion"].between(0, 1).all() and values["energy"].notna().any()


@pytest.mark.parametrize("gain, verdict", [(1.5, "supported"), (-1.5, "worse")])
def test_it_is_judged(book, home, gain, verdict):
    """Five seeds of the line and of its arm on the frames of one training; scores are drawn, those of the line's fakes moved."""
    (first, *_), profile = book.report.lines(), f"planted-{verdict}"
    run, like, lines = first.runs[0], book.report.read(first, "smoke-a")[0], []
    for arm, moved in (("", gain), ("narrow", 0.0)):
        runs = []
        for seed in range(5):
            folder = home / "runs" / core.slug(f"{profile} {arm} {seed}")
            folder.mkdir(parents=True)
            shutil.copyfile(run.folder / "best.safetensors", folder / "best.safetensors")
            record = {**run.record, "parameters": {**run.parameters, "seed": seed}, "collapsed": False}
            runs.append(train.Run(folder, record))
            noise = core.rng("frames").normal(size=len(like)) + 0.2 * core.rng(arm, seed).normal(size=len(like))
            scored = like[[*metrics.COLUMNS]].assign(score=expit(noise + moved * like["label"]))
            facts = train.score_facts(
                folder.name, "smoke-a", "", {"parameters": {}, **like.attrs}, run.record["weights_sha256"]
            )
            core.write_table(train.shard(folder, "smoke-a", ""), scored, facts)
        lines.append(scores.Line(arm or "Frequency", "frequency", arm and "widths", arm, tuple(runs)))
    scores.pack(profile, lines)
    assert tables.Book(profile).table("claims").loc[["frequency"], "verdict"].tolist() == [verdict]


def test_its_notebook_is_a_copy_of_02(book, home):
    job = jobs.jobs("mine")[-1]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        home / "notebooks" / "11_frequency.ipynb", job.log, job.parameters.model_dump(mode="json"), progress_bar=False
    )
    assert job.done()
    text = "".join(str(cell.get("outputs", "")) for cell in nbformat.read(job.log, 4).cells)
    assert "Frequency" in text and "class Network(papers.Network)" in text


def test_a_paper_may_make_its_own_samples(home, monkeypatch):
    settings = papers.module("frequency_pairs").Settings(image_size=96, epochs=1, batch_size=16, images_per_epoch=32)
    table = select(load_frames("smoke-a"), "train")
    real = settings.visible(table, 0, None)
    shown = FrameDataset(real, settings, seed=0)[0, 0, 0]
    assert [item["label"] for item in shown] == [0, 1] and shown[1]["mask"].any() and not shown[0]["mask"].any()
    judged = FrameDataset(real, settings)[0, 0, 0]
    assert len(judged) == 1
    from dfnb import train

    monkeypatch.setattr(train, "WORKERS", 2)
    run = train.train("frequency_pairs", "smoke-a", settings)
    assert run.record["n"] == {"train": len(real), "val": 8 * 2} and len(real) < len(table)
    assert run.record["images_seen"] == 32 and "own samples of the validation split" in run.record["rule"]
    judging = run.log.set_index("epoch")["validation_auc"]
    assert 0 < run.log["loss_total"].iloc[-1] < 2
    assert run.record["chosen"]["auc"] == judging[run.record["chosen"]["epoch"]] == judging.max()
    assert run.record["validation_threshold"]["threshold_clusters"] == 4  # pairs of people
    assert len(scores.score(run, "smoke-b")) == len(select(load_frames("smoke-b"), "test"))
