"""CONTRIBUTING's example as it is written: a paper, its notebook, a profile, a claim, a table."""

import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from dfnb import papers
from dfnb.data import frames, test_sets
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import FrameDataset
from dfnb.papers import backbones, contract
from dfnb.report import claims, detectors, scores, tables
from dfnb.report.scores import KEYS, Condition, write_scores
from dfnb.running import jobs
from dfnb.seeds import rng
from dfnb.settings import DfnbError, parse_yaml
from dfnb.training import runs, train

PAIRS = '''"""The same, trained on real frames and on fakes that it makes of them."""

from typing import ClassVar

import cv2
import numpy as np

from dfnb.papers import contract
from dfnb.papers.home import frequency
from dfnb.papers.home.frequency import Network

PAPER = contract.Paper("Frequency pairs", "13_pairs", "Frequency pairs")


class Settings(frequency.Settings):
    """Every real frame is shown together with a fake made of it."""

    makes_other_class: ClassVar[bool] = True

    def visible(self, frames, seed, start):
        return frames[frames["label"] == 0]

    def samples(self, sample, draw):
        mask = np.zeros_like(sample.mask)
        top, left = draw.integers(0, 40, 2)
        mask[top : top + 48, left : left + 48] = True
        image = np.where(mask[..., None], cv2.blur(sample.image, (5, 5)), sample.image)
        return [sample, sample._replace(image=image, mask=mask, label=1, has_mask=True)]
'''

CORE = '''"""CORE (Ni et al., CVPR Workshops 2022): two views of a frame give the same features."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from dfnb.papers import backbones, contract

PAPER = contract.Paper("CORE", "14_consistency", "CORE")


class Settings(contract.Settings):
    """The weight of the consistency."""

    views: ClassVar[int] = 2

    consistency: Annotated[float, Field(ge=0)] = 1.0


class Network(contract.Network):
    """A classifier that also returns its features."""

    def __init__(self, settings):
        super().__init__()
        self.encoder = backbones.create(settings.backbone, settings.pretrained, num_classes=0)
        self.head = nn.Linear(self.encoder.num_features, 2)
        self.weights_from = self.encoder.weights_from
        self.consistency = settings.consistency

    def forward(self, images):
        features = self.encoder(images)
        return {"cls": self.head(features), "features": features}

    def losses(self, outputs, batch):
        first, second = outputs["features"].unflatten(0, (-1, 2)).unbind(1)
        cosine = 1 - nn.functional.cosine_similarity(first, second).mean()
        cls = contract.cross_entropy(outputs["cls"], batch["label"], batch)
        return {"cls": cls, "cosine": cosine, "total": cls + self.consistency * cosine}
'''


@pytest.fixture(scope="module")
def blocks(checkout):
    """The code blocks of the documents, by the place in their first line or by their first word."""
    names = ("CONTRIBUTING.md", "docs/extending.md")
    text = "\n".join((checkout / name).read_text(encoding="utf-8") for name in names)
    pattern = r"^```\w+\n(?:# (\S+\.\w+[^\n]*)\n)?(.*?)^```"
    result = {}
    for place, code in re.findall(pattern, text, re.DOTALL | re.MULTILINE):
        result[place or code.split()[0]] = code
    return result


@pytest.fixture(scope="module")
def home(smoke_home, tmp_path_factory, checkout, blocks):
    """A home with what the example adds, one more paper, and nothing else but data."""
    home = tmp_path_factory.mktemp("contract")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    shutil.copytree(checkout / "data_manifest", home / "data_manifest")
    with (home / "data_manifest" / "claims" / "claims.yaml").open("a", encoding="utf-8") as file:
        file.write(blocks["data_manifest/claims/claims.yaml, at the end"])
    for name in ("papers", "notebooks/profiles"):
        (home / name).mkdir(parents=True)
    for name, code in blocks.items():
        if name.startswith(("papers/", "notebooks/")):
            (home / name).write_text(code, encoding="utf-8")
    for name, code in (("frequency_pairs", PAIRS), ("consistency", CORE)):
        (home / "papers" / f"{name}.py").write_text(code, encoding="utf-8")
    shutil.copy(checkout / "notebooks" / "02_xception_baseline.ipynb", home / "notebooks")
    subprocess.run(["bash", "-c", blocks["sed"]], cwd=home, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def report(home):
    """The scores of the profile's report, with all trainings done."""
    for job in jobs.plan("mine").trainings:
        jobs.train_and_score(job)
    return scores("mine")


def test_the_paper_is_short_and_needs_no_registration(home, blocks):
    assert len(blocks["papers/frequency.py"].splitlines()) <= 40
    assert papers.notebooks()["14_frequency"] == "frequency"
    assert {*papers.modules()} >= {"frequency", "frequency_pairs", "tuned_vit", "consistency"}
    assert [job.name for job in jobs.plan("mine").jobs] == [
        "frequency-smoke-a-s0",
        "frequency-smoke-a-s1",
        "frequency-smoke-a-widths-narrow-s0",
        "14_frequency",
    ]


def test_a_file_of_the_home_hides_and_replaces_nothing(home, blocks, monkeypatch, tmp_path):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "papers").mkdir()
    collection = papers.modules()
    for name in ("contract", "frames", "core"):  # two are modules of the package, too
        code = blocks["papers/frequency.py"].replace("Frequency", name).replace("14_", f"15_{name}")
        (tmp_path / "papers" / f"{name}.py").write_text(code, encoding="utf-8")
    found = papers.modules()
    assert set(found) - set(collection) == {"contract", "frames", "core"}
    assert found["frames"].PAPER.title == "frames" and hasattr(frames, "load_frames")
    assert found["contract"].Settings.__mro__[1] is contract.Settings
    copy = tmp_path / "papers" / "core_2.py"
    for text in (code, code.replace("15_core", "16_core"), code.replace('"core"', '"another"')):
        copy.write_text(text, encoding="utf-8")
        sys.modules.pop("dfnb.papers.home.core_2", None)  # as in a new process
        with pytest.raises(DfnbError, match=r"core_2.py has the name, title or notebook of .*core"):
            papers.modules()


def test_code_changes_the_identity_of_a_training_and_comments_do_not(home, blocks):
    path = home / "papers" / "frequency.py"
    code = blocks["papers/frequency.py"]
    digests = []
    for text in (code, code.replace('real first."""', 'real first. """  # one'), f"{code}\nX = 1"):
        path.write_text(text, encoding="utf-8")
        digests.append(papers.source_digest("frequency"))
    path.write_text(code, encoding="utf-8")
    assert digests[0] == digests[1] != digests[2]


def test_it_stands_in_the_tables(report):
    main = tables.pivot(tables.by_place(tables.main(report)))
    assert main.index.tolist() == ["Frequency"] and {"within", "across"} <= {*main}
    assert main.loc["Frequency", "within"].endswith("]")
    assert {*tables.variants(report)["detector"]} == {"Frequency, widths: narrow"}


@pytest.mark.parametrize("gain, result", [(1.5, "supported"), (-1.5, "worse")])
def test_its_claim_is_judged(report, home, gain, result):
    frames = test_sets.load("smoke-a")
    record = detectors("mine")[0].runs[0].record
    profile = f"planted-{result}"
    for role, shift in ((("", ""), gain), (("widths", "narrow"), 0.0)):
        for seed in range(5):
            noise = rng("frames").normal(size=len(frames))
            noise += 0.2 * rng(*role, seed).normal(size=len(frames))
            planted = frames[list(KEYS)].assign(log_odds=noise + shift * frames["label"])
            seeded = record.parameters.model_copy(update={"seed": seed})
            changed = record.model_copy(update={"parameters": seeded, "collapsed": False})
            about = {"record": changed.model_dump(mode="json"), "roles": [role]}
            made = {Condition("smoke-a"): planted}, {"smoke-a": test_sets.metadata("smoke-a")}
            write_scores(profile, f"{role[1]}{seed}", *made, **about)
    assert claims.judge(profile, "frequency")["verdict"].tolist() == [result]


def test_its_notebook_is_a_copy_of_the_baseline_s(report, home, tmp_path):
    job = jobs.plan("mine").notebooks[-1]
    executed = tmp_path / "executed.ipynb"
    papermill.execute_notebook(
        home / "notebooks" / "14_frequency.ipynb",
        executed,
        job.parameters,
        progress_bar=False,
    )
    assert job.done
    outputs = [cell.get("outputs", "") for cell in nbformat.read(executed, 4).cells]
    assert "class Network(contract.Network)" in str(outputs)


def test_a_paper_may_make_its_own_samples(home):
    settings = papers.module("frequency_pairs").Settings(
        image_size=96, epochs=1, batch_size=16, images_per_epoch=32
    )
    real = settings.visible(select(load_frames("smoke-a"), "train"), 0, None)
    shown = FrameDataset(real, settings, seed=0)[[(0, 0, 0)]]
    assert shown["label"].tolist() == [0, 1]
    run = train.train(train.run_parameters("frequency_pairs", "smoke-a", settings))
    assert run.record.n["train"] == len(real) and run.record.images_seen == 32
    assert "samples" in run.record.rule and 0 < run.log["loss_total"].iloc[-1] < 2


def test_a_paper_may_compare_two_views_of_a_frame(home):
    assert len(CORE.splitlines()) <= 45
    small = {"backbone": "dfnb_plain7", "image_size": 96, "epochs": 2, "images_per_epoch": 64}
    small |= {"pretrained": False, "optimiser": "adamw", "lr": 0.002}
    last = {}
    for weight in (0.0, 10.0):
        settings = papers.module("consistency").Settings(**small, consistency=weight)
        run = train.train(train.run_parameters("consistency", "smoke-a", settings))
        assert run.record.images_seen == 2 * 64
        last[weight] = run.log["loss_cosine"].iloc[-1]
    assert 0 < last[10.0] < last[0.0] < 2
    with pytest.raises(DfnbError, match="mixup_probability must be 0: this paper compares 2 views"):
        papers.module("consistency").Settings.check({"mixup_probability": 0.5}, "core")


# ---------------------------------------------------------------- the second example


def test_the_tuned_transformer_trains_and_has_maps_on_its_grid(home, blocks):
    assert len(blocks["papers/tuned_vit.py"].splitlines()) <= 60
    run = jobs.train_and_score(jobs.plan("tuned-small").trainings[0])
    assert run.record.weights_from == "random weights"
    losses = run.log.iloc[-1]
    assert losses["loss_alignment"] > 0 > losses["loss_uniformity"]
    encoder = run.network().encoder
    assert backbones.last_map(encoder) is encoder.blocks[-1].norm1  # tokens on the grid of patches


def test_the_tuned_transformer_trains_its_norms_alone(home, tmp_path, monkeypatch):
    torch.manual_seed(1)
    weights = timm.create_model("test_vit").state_dict()
    save_file(weights, tmp_path / "test_vit.safetensors")
    start = backbones.Start("ImageNet", tmp_path / "test_vit.safetensors", "of a test")
    monkeypatch.setattr(backbones, "start", lambda name, pretrained: start)
    (job,) = jobs.plan("tuned-small").trainings
    settings = runs.settings_of(job.run).model_copy(update={"pretrained": True})
    run = train.train(train.run_parameters("tuned_vit", "smoke-a", settings))
    stored = load_file(run.folder / "best.safetensors")
    assert not torch.equal(stored["encoder.norm.weight"], weights["norm.weight"])
    frozen = run.network().encoder.blocks[0].mlp.fc1.weight
    assert torch.equal(frozen, weights["blocks.0.mlp.fc1.weight"])


def test_the_large_transformer_has_its_shapes_and_needs_its_weights(home, blocks, monkeypatch):
    entry = parse_yaml(blocks["notebooks/profiles/tuned.yaml"])["notebooks"]["13_tuned_vit"]
    del entry["frames_per_video"]
    paper = papers.module("tuned_vit")
    settings = paper.Settings.check({**entry, "pretrained": False}, "tuned.yaml")
    large = timm.get_pretrained_cfg(settings.backbone)
    for name in contract.INPUT:
        assert getattr(settings, name) == getattr(large, name)
    with torch.device("meta"):
        network = paper.Network(settings)
        outputs = network(torch.zeros(2, 3, 224, 224))
    assert outputs["features"].shape == (2, 1024) and outputs["cls"].shape == (2, 2)
    tuned = [weights.numel() for weights in network.parameters() if weights.requires_grad]
    # The scale and shift of two norms per block, one before and one after; then the head.
    assert sum(tuned) == 2 * 1024 * (2 * 24 + 2) + 2 * 1024 + 2
    monkeypatch.setattr(backbones, "start", lambda name, pretrained: backbones.Start())
    with pytest.raises(DfnbError, match="weights of vit_large_patch14_clip_quickgelu_224"):
        jobs.plan("tuned")
