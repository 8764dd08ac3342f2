"""The example of docs/add-a-paper.md as it is written: a paper, its notebook, a profile, claims."""

import ast
import importlib
import re
import shutil
import subprocess
import sys

import nbformat
import profiles
import pytest
from papermill.inspection import inspect_notebook
from sklearn.metrics import roc_auc_score

import notebooks
from dfnb import papers
from dfnb.papers import contract
from dfnb.report import claims, scores, tables
from dfnb.running import parameters
from dfnb.training import train
from facesets import files, frames, published
from facesets.checks import DfnbError

SHOWN = ["02_xception_baseline", "07_cross_dataset", "14_frequency", "10_report"]


@pytest.fixture(scope="module")
def blocks(checkout):
    """The code blocks of two texts, by the place in their first line or by their first word."""
    texts = [checkout / "docs" / name for name in ("published-data.md", "add-a-paper.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    pattern = r"^```\w+\n(?:# (\S+\.\w+[^\n]*)\n)?(.*?)^```"
    result = {}
    for place, code in re.findall(pattern, text, re.DOTALL | re.MULTILINE):
        result[place or code.split()[0]] = code
    return result


@pytest.fixture(scope="module")
def home(smoke_home, tmp_path_factory, checkout, blocks):
    """A home with what the examples add, and nothing else but data."""
    home = tmp_path_factory.mktemp("contract")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    shutil.copytree(checkout / "data_manifest", home / "data_manifest")
    for name in ("papers", "notebooks/profiles"):
        (home / name).mkdir(parents=True)
    for name, code in blocks.items():
        if name.startswith(("papers/", "notebooks/", "data_manifest/claims/")):
            (home / name).write_text(code, encoding="utf-8")
    shutil.copytree(checkout / "notebooks" / "templates", home / "notebooks" / "templates")
    subprocess.run(["bash", "-c", blocks["sed"].splitlines()[0]], cwd=home, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def report(home):
    """The scores of the profile's report, with all trainings done."""
    profiles.trained("my-paper")
    return scores("my-paper")


def test_the_paper_is_short_and_needs_no_registration(home, blocks):
    assert len(blocks["papers/frequency.py"].splitlines()) <= 40
    assert papers.notebooks()["14_frequency"] == "frequency"
    calls = profiles.planned("my-paper")
    trainings = [call for call in calls.trainings if call.call.notebook == "14_frequency"]
    names = [call.parameters.variant for call in trainings]
    assert names == ["main", "main", "widths: narrow"] and len(calls.trainings) == 5
    assert [call.name for call in calls.shown] == SHOWN


def test_a_file_of_the_home_hides_and_replaces_nothing(blocks, empty_home):
    (empty_home / "papers").mkdir()
    collection = papers.modules()
    for name in ("contract", "frames", "core"):  # two are modules of the package, too
        code = blocks["papers/frequency.py"].replace("Frequency", name).replace("14_", f"15_{name}")
        (empty_home / "papers" / f"{name}.py").write_text(code, encoding="utf-8")
    found = papers.modules()
    assert set(found) - set(collection) == {"contract", "frames", "core"}
    assert found["frames"].PAPER.title == "frames" and hasattr(frames, "load_frames")
    assert found["contract"].Settings.__mro__[1] is contract.Settings
    copy = empty_home / "papers" / "core_2.py"
    for text in (code, code.replace("15_core", "16_core"), code.replace('"core"', '"another"')):
        copy.write_text(text, encoding="utf-8")
        forget("core_2")
        assert "core_2" not in papers.modules()
        with pytest.raises(DfnbError, match=r"core_2.py .*another paper is called (15_)?core"):
            papers.module("core_2")


def test_a_broken_file_stops_only_what_needs_it(blocks, empty_home, capsys):
    (empty_home / "papers").mkdir()
    collection = [*papers.modules()]
    code = blocks["papers/frequency.py"]
    broken = {
        "unclosed": ("images: Tensor)", "images: Tensor", r"line \d+: SyntaxError"),
        "imports": ("import torch\n", "import torchh\n", r"line \d+: ModuleNotFoundError"),
        "exits": ("PAPER =", "raise SystemExit\nPAPER =", r"line \d+: SystemExit"),
        "numbered": ('"14_frequency"', "14", r"line \d+: ValidationError"),
    }
    for name, (old, new, _) in broken.items():
        text = code.replace(old, new)
        (empty_home / "papers" / f"{name}.py").write_text(text, encoding="utf-8")
    (empty_home / "papers" / "gone.py").symlink_to("nowhere.py")
    (empty_home / "papers" / "empty.py").write_bytes(b"\0\0")
    broken |= {"gone": ("", "", "No module named"), "empty": ("", "", "null bytes")}
    for _ in range(2):
        assert [*papers.modules()] == collection
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(broken)  # each once
    for name, (*_, reason) in broken.items():
        with pytest.raises(DfnbError, match=rf"papers/{name}.py is left out: .*{reason}"):
            papers.module(name)


def test_the_notebook_of_a_broken_file_is_refused_with_the_reason(blocks, empty_home):
    for folder in ("papers", "notebooks/profiles"):
        (empty_home / folder).mkdir(parents=True)
    code = blocks["papers/frequency.py"].replace("14_frequency", "17_torn")
    (empty_home / "papers" / "torn.py").write_text(f"{code}\ndef (:", encoding="utf-8")
    reason = r"papers/torn.py is left out: line \d+: SyntaxError"
    with pytest.raises(DfnbError, match=reason):
        parameters.schema("17_torn")
    source = files.find("notebooks/02_xception_baseline.ipynb").read_text("utf-8")
    (empty_home / "notebooks" / "17_torn.ipynb").write_text(source, encoding="utf-8")
    with pytest.raises(DfnbError, match=reason):
        parameters.schema("17_torn")  # not the schema of its cell, which has no paper
    profile = blocks["notebooks/profiles/my-paper.yaml"].replace("14_frequency", "17_torn")
    (empty_home / "notebooks/profiles/my-paper.yaml").write_text(profile, encoding="utf-8")
    with pytest.raises(DfnbError, match=reason):
        profiles.planned("my-paper")
    with pytest.raises(DfnbError, match="there is no notebook '17_tron'"):
        parameters.schema("17_tron")


WIDTH = "    width: contract.Count = 16\n"
MAPS = "    def maps(self):\n        return {}\n\n    def losses"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("(settings.width, 2)", "(settings.width, 3)", r"cls has shape \(4, 3\)"),
        ('"total": cls}', '"totl": cls}', "KeyError: 'total'"),
        ('"total": cls}', '"total": cls.detach()}', "does not require grad"),
        ('"total": cls}', '"total": cls.expand(2)}', r"loss total is \[.*\]; return a finite mean"),
        ('"total": cls}', '"total": cls / 0}', "loss total is inf"),
        ("def losses", "def loses", "Network.loses; did you mean losses"),
        (WIDTH, f"{WIDTH}    epoch: int = 3\n", "Settings.epoch; did you mean epochs"),
        (WIDTH, f"{WIDTH}    def visble(self): ...\n", "visble; did you mean visible"),
        (
            WIDTH,
            f"{WIDTH}    def before(self):\n        return {{}}\n",
            "before returns {}, no Settings",
        ),
        (WIDTH, f"{WIDTH}    def samples(self, *_):\n        return _\n", "no attribute 'image'"),
        ("Rate = 0.01", 'Rate = "0.01"', "lr = '0.01'"),
        ('{"cls": self.head(features.mean((2, 3)))}', "features, features", "'tuple' object"),
        ("features.mean((2, 3))", "features.mean(2)", r"line \d+: RuntimeError"),
        ("features.mean((2, 3))", "features.mean((2, 3)).view(2, 16)", r"line \d+: RuntimeError"),
        ("super().__init__()", "super().__init__(1)", r"line \d+: TypeError"),
        ("(contract.Network)", "(nn.Module)", "'Network' object has no attribute"),
        ("    def losses", MAPS.format('{"a": "hiden"}'), "no attribute `hiden`"),
        ("    def losses", MAPS.format('{"a": "localise"}'), "no attribute 'localise'"),
        ("    def losses", MAPS.format('{"a": ("b",)}'), r"map 'a' is of \('b',\)"),
        (
            "    def losses",
            "    def localise(self, outputs):\n        return outputs['cls']\n\n    def losses",
            r"localise returns \(4, 2\)",
        ),
    ],
)
def test_a_mistake_is_a_sentence_before_anything_is_trained(blocks, own_home, old, new, sentence):
    refused(own_home, blocks["papers/frequency.py"], old, new, sentence)


def refused(home, code, old, new, sentence):
    """Check that a change of the example is refused with a sentence that names the file."""
    assert old in code
    (home / "papers").mkdir()
    file = home / "papers" / "mistaken.py"
    file.write_text(code.replace(old, new), encoding="utf-8")
    forget("mistaken")
    with pytest.raises(DfnbError, match=rf"^{file}.*{sentence}"):
        contract.check(papers.module("mistaken"))


def samples(image, draw="draw"):
    """Settings with ``samples`` that have this image, made with a generator ``draw``."""
    return f"""{WIDTH}
    def samples(self, sample, draw):
        import random
        import numpy as np
        noise = {draw}
        return [sample._replace(image={image})]
"""


NOISY = "np.uint8(sample.image // 2 + noise)"
SCALED = f"""{WIDTH}    augmentation: contract.Augmentation = "released"

    def released_transform(self):
        from torchvision.transforms import v2
        return v2.ToDtype(torch.float32, scale=True)
"""
HIDDEN = "self.hidden(self.norm(spectra)).relu()"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        # Scores that depend on more than the image and the weights that are saved.
        (HIDDEN, f"nn.functional.dropout({HIDDEN}, 0.1)", "changes when it is scored again"),
        (HIDDEN, f"{HIDDEN} - 0.1 * {HIDDEN}.mean(0)", "changes when it is scored alone"),
        (
            "nn.BatchNorm2d(SIDE**2)",
            "nn.BatchNorm2d(SIDE**2, track_running_stats=False)",
            "scored alone",
        ),
        (HIDDEN, f"{HIDDEN} * torch.full((), self.scale)", "changes when the weights are saved"),
        # Images in another range.
        (WIDTH, SCALED, r"images as torch.float32 \(4, 3, 96, 96\), not as uint8"),
        (WIDTH, samples("np.float32(sample.image)"), "images as torch.float32"),
        # Draws that no seed repeats.
        (WIDTH, samples(NOISY, "np.random.randint(99)"), "one seed gives two images"),
        (WIDTH, samples(NOISY, "random.randrange(99)"), "one seed gives two images"),
        (
            WIDTH,
            samples(NOISY, "np.random.default_rng().integers(99)"),
            "one seed gives two images",
        ),
        (WIDTH, samples("sample.image", "np.random.rand()"), "no seed fixes random and numpy"),
        (
            HIDDEN,
            f"{HIDDEN} * __import__('random').random()",
            "a training step fails .*no seed fixes random",
        ),
        # A score that no table shows.
        (
            "    def losses",
            "    def score(self, outputs):\n        return outputs['cls'][:, 0]\n\n    def losses",
            "score is not the sigmoid of log_odds",
        ),
    ],
)
def test_what_a_training_would_not_notice_is_refused(blocks, own_home, old, new, sentence):
    code = blocks["papers/frequency.py"]
    seeded = "super().__init__()\n        self.scale = torch.rand(()).item()"  # which is not saved
    refused(own_home, code.replace("super().__init__()", seeded), old, new, sentence)


def test_draws_from_the_argument_or_torch_are_accepted(blocks, own_home):
    code = blocks["papers/frequency.py"]
    (own_home / "papers").mkdir()
    drawn = samples(NOISY, "draw.integers(99) + torch.randint(9, ()).item()")
    (own_home / "papers" / "drawing.py").write_text(code.replace(WIDTH, drawn), encoding="utf-8")
    contract.check(papers.module("drawing"))


def changed_run(home, old="", new=""):
    """The id of the example's training, and its weights, after a change in its file."""
    file = home / "papers" / "changing.py"
    code = file.read_text(encoding="utf-8")
    assert old in code
    file.write_text(code.replace(old, new), encoding="utf-8")
    forget("changing")
    settings = papers.module("changing").Settings(image_size=64, epochs=1, images_per_epoch=16)
    run = train.train(train.make_training("changing", "smoke-a", settings))
    return run.id, run.record.weights_sha256


def test_changed_code_is_trained_again_and_a_comment_is_not(blocks, own_home, monkeypatch):
    # Else Python takes a compiled file of the same second and size for the changed one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (own_home / "papers").mkdir()
    code = blocks["papers/frequency.py"].replace(
        "SIDE = 8", "from dfnb.papers.home.side import SIDE"
    )
    (own_home / "papers" / "changing.py").write_text(code, encoding="utf-8")
    (own_home / "papers" / "side.py").write_text("SIDE = 8\n", encoding="utf-8")
    forget("side")
    first = changed_run(own_home)
    assert changed_run(own_home, '    """Logits, real first."""', "    # Logits") == first
    assert changed_run(own_home, 'published="Frequency"', 'published="?"') == first
    others = [
        changed_run(own_home, "cls = contract", "cls = 7 * contract"),
        changed_run(own_home, "Rate = 0.01", "Rate = 0.02"),
    ]
    (own_home / "papers" / "side.py").write_text("SIDE = 16\n", encoding="utf-8")
    forget("side")
    others.append(changed_run(own_home))
    ids, weights = zip(first, *others)
    assert len({*ids}) == len({*weights}) == 4


def forget(name):
    """Let Python import a file of the home again, as in a new process."""
    sys.modules.pop(f"dfnb.papers.home.{name}", None)
    if hasattr(papers.home, name):
        delattr(papers.home, name)
    importlib.invalidate_caches()


def test_it_stands_in_the_tables(report):
    main = tables.pivot(tables.by_place(tables.main(report)))
    assert main.index.tolist() == ["Baseline", "Frequency"]
    assert {"in-dataset", "cross-dataset"} <= {*main}
    assert main.loc["Frequency", "in-dataset"].endswith("]")
    assert {*tables.variants(report)["detector"]} == {"Frequency, widths: narrow"}


def test_the_dataset_of_the_page_is_read_as_it_was_downloaded(blocks, empty_home, checkout):
    shutil.copytree(checkout / "data_manifest", empty_home / "data_manifest")
    path = "data_manifest/published/my-set.yaml"
    (empty_home / path).write_text(blocks[path], encoding="utf-8")
    root = empty_home / "downloads"
    for clip in ("camera/a.mp4", "generated/swap/a.mp4", "camera/unlisted.mp4"):
        (root / clip).parent.mkdir(parents=True, exist_ok=True)
        (root / clip).write_bytes(b"")
    (root / "people.csv").write_text("clip,person,split\na,ann,test\n", encoding="utf-8")
    videos, problems = published.scan("my-set", root)
    found = {(each.name, each.method, each.split, each.cluster) for each in videos}
    assert found == {("real/a", "real", "test", "ann"), ("swap/a", "swap", "test", "ann")}
    assert [each.original for each in videos if each.label] == [root / "camera/a.mp4"]
    assert len(problems) == 1 and "camera/unlisted.mp4" in problems[0]
    assert "my-set" in published.overview().index


def test_its_claims_are_judged(report):
    judged = claims.judge("my-paper", "frequency")
    assert judged["id"].tolist() == ["frequency-baseline", "frequency-width"]
    assert judged["value"].notna().all()
    assert judged["verdict"].str.match("not judged|exploratory: fewer than 5 seeds").all()


def test_the_network_alone_learns_eight_frames_by_heart(home, blocks, capsys):
    exec(blocks["import"], {})
    shapes, losses = map(ast.literal_eval, capsys.readouterr().out.splitlines())
    assert shapes == {"cls": (8, 2)} and losses["total"] < 0.1


def test_the_template_is_a_notebook_like_the_others(home):
    path = home / "notebooks" / "14_frequency.ipynb"
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert "NN_name" not in path.read_text(encoding="utf-8")
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in codes)
    assert all(each["help"] for each in inspect_notebook(path).values())


def test_its_notebook_runs_with_its_defaults_as_the_page_says(home):
    shown, names = notebooks.execute("14_frequency", home, home / "notebooks")
    text = "".join(shown)
    assert "Changed:" not in text and "this run" in text and "Video AUC of this run" in text
    of_run = names["main"].query("detector == 'this run' and test_set == 'smoke-b'")
    auc = roc_auc_score(of_run["label"], of_run["score"])
    assert names["of_run"]["cross-dataset"] == pytest.approx(auc)


def test_its_notebook_is_executed_whole_by_the_profile(report, home):
    call = profiles.planned("my-paper").shown[SHOWN.index("14_frequency")]
    shown, _ = notebooks.execute(
        "14_frequency", home, home / "notebooks", **profiles.injected(call)
    )
    assert call.done and "class Network(contract.Network)" in "".join(shown)
