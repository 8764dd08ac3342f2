"""The example of docs/add-a-paper.md as it is written: a paper, its notebook, a profile, claims."""

import ast
import re
import shutil
import subprocess

import nbformat
import paper_check
import paper_files
import profiles
import pytest
from networks import batch_of
from paper_files import EXAMPLE
from papermill.inspection import inspect_notebook
from sklearn.metrics import roc_auc_score

import notebooks
from dfnb import papers
from dfnb.results import claims, scores, tables
from dfnb.training import train
from facesets import files, published
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
    (home / "notebooks" / "profiles").mkdir(parents=True)
    for name, code in blocks.items():
        if name.startswith(("notebooks/", "data_manifest/claims/")):
            (home / name).write_text(code, encoding="utf-8")
    shutil.copytree(checkout / "notebooks" / "templates", home / "notebooks" / "templates")
    subprocess.run(["bash", "-c", blocks["sed"].splitlines()[0]], cwd=home, check=True)
    site = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch, paper_files.installed(site, frequency=EXAMPLE):
        patch.setenv("DFNB_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def report(home):
    """The scores of the profile's report, with all trainings done."""
    profiles.trained("my-paper")
    return scores("my-paper")


def test_the_paper_is_short_and_is_found_by_its_entry_point(home):
    assert len(EXAMPLE.splitlines()) <= 40
    assert papers.notebooks()["14_frequency"] == "frequency"
    calls = profiles.planned("my-paper")
    trainings = [call for call in calls.trainings if call.call.notebook == "14_frequency"]
    names = [call.parameters.variant for call in trainings]
    assert names == ["main", "main", "widths: narrow"] and len(calls.trainings) == 5
    assert [call.name for call in calls.shown] == SHOWN


def test_a_variant_of_a_paper_takes_fourteen_lines(own_home, tmp_path, blocks, capsys):
    """It trains as the page says, and its loss is the paper's with LIL three times."""
    code = blocks["dfnb/papers/louder.py"]
    assert len(code.splitlines()) == 13  # the first line has the place
    with paper_files.installed(tmp_path, louder=code):
        exec(blocks["from"], {})
        louder = papers.module("louder")
        small = {**papers.module("exposing_the_deception").PAPER.small, "pretrained": False}
        network = louder.Network(louder.Settings(**small, backbone="dfnb_plain7", image_size=96))
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["1", "2"]  # the second epoch
    batch = batch_of()
    outputs = network(batch["image"])
    losses = network.losses(outputs, batch)
    of_paper = super(louder.Network, network).losses(outputs, batch)
    expected = of_paper["total"] + 2 * of_paper["lil"]
    assert losses["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_two_papers_of_one_name_title_or_notebook_are_refused(tmp_path):
    """Tables would take the runs of both for those of one."""
    for name, source, clash in [
        ("xception", EXAMPLE, "xception"),
        ("copied", EXAMPLE.replace('"Frequency"', '"Baseline"'), "Baseline"),
        ("copied", EXAMPLE.replace("14_frequency", "03_lae"), "03_lae"),
    ]:
        sentence = rf"my_papers/{name}\.py: .*called {clash}; rename"
        with (
            paper_files.installed(tmp_path, **{name: source}),
            pytest.raises(DfnbError, match=sentence),
        ):
            papers.modules()
    assert "copied" not in papers.modules()


def test_a_file_that_cannot_be_imported_says_so_itself(tmp_path):
    """Python names the file and the line."""
    torn = paper_files.installed(tmp_path, torn=f"{EXAMPLE}\ndef (:")
    with torn, pytest.raises(SyntaxError) as error:
        papers.modules()
    assert error.value.filename.endswith("my_papers/torn.py")


WIDTH = "    width: contract.Count = 16\n"
MAPS = "    def maps(self):\n        return {}\n\n    def losses"


def refused(folder, code, old, new, sentence):
    """Check that a change of the example is found."""
    assert old in code
    file = folder / "mistaken.py"
    file.write_text(code.replace(old, new), encoding="utf-8")
    with pytest.raises((AssertionError, DfnbError), match=sentence):
        paper_check.check(paper_files.read(file))


def sampled(image, draw="0"):
    """Settings with a ``sample`` that has this image, made with the number ``draw``."""
    return f"""{WIDTH}
    def sample(self, stored):
        import random
        import numpy as np
        noise = {draw}
        return stored._replace(image={image})
"""


NOISY = "np.uint8(stored.image // 2 + noise)"
SCALED = f"""{WIDTH}    augmentation: contract.Augmentation = "released"

    def released_transform(self):
        from torchvision.transforms import v2
        return v2.ToDtype(torch.float32, scale=True)
"""
HIDDEN = "self.hidden(self.norm(spectra)).relu()"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        # Names that nothing uses, and declarations of another type.
        ("def losses", "def loses", "Network.loses; did you mean losses"),
        (WIDTH, f"{WIDTH}    epoch: int = 3\n", "Settings.epoch; did you mean epochs"),
        (WIDTH, f"{WIDTH}    def visble(self): ...\n", "visble; did you mean visible"),
        (WIDTH, f"{WIDTH}    def before(self):\n        return {{}}\n", "before returns {}"),
        ("Rate = 0.01", 'Rate = "0.01"', "the defaults of Settings: lr = '0.01'"),
        # Outputs, losses and maps of another shape.
        ("(settings.width, 2)", "(settings.width, 3)", r"cls has shape \(4, 3\)"),
        ('"total": cls}', '"total": cls.expand(2)}', r"loss total is \[.*\]; return a finite mean"),
        ('"total": cls}', '"total": cls / 0}', "loss total is inf"),
        ("    def losses", MAPS.format('{"a": ("b",)}'), r"map 'a' is of \('b',\)"),
        (
            "    def losses",
            "    def localise(self, outputs):\n        return outputs['cls']\n\n    def losses",
            r"localise returns \(4, 2\)",
        ),
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
        (WIDTH, SCALED, r"images are torch.float32 \(4, 3, 96, 96\), not uint8"),
        (WIDTH, sampled("np.float32(stored.image)"), "images are torch.float32"),
        # Draws that no seed repeats.
        (WIDTH, sampled(NOISY, "np.random.randint(99)"), "one seed gives two images"),
        (WIDTH, sampled(NOISY, "random.randrange(99)"), "one seed gives two images"),
        (
            WIDTH,
            sampled(NOISY, "np.random.default_rng().integers(99)"),
            "one seed gives two images",
        ),
        (WIDTH, sampled("stored.image", "np.random.rand()"), "no seed fixes random and numpy"),
        (
            HIDDEN,
            f"{HIDDEN} * __import__('random').random()",
            "changes when it is scored again",
        ),
        # A score that no table shows.
        (
            "    def losses",
            "    def score(self, outputs):\n        return outputs['cls'][:, 0]\n\n    def losses",
            "score is not the sigmoid of log_odds",
        ),
    ],
)
def test_what_a_training_would_not_notice_is_found(tmp_path, old, new, sentence):
    seeded = "super().__init__()\n        self.scale = torch.rand(()).item()"  # which is not saved
    refused(tmp_path, EXAMPLE.replace("super().__init__()", seeded), old, new, sentence)


def test_draws_from_torch_are_accepted(tmp_path):
    drawn = sampled(NOISY, "torch.randint(9, ()).item()")
    file = tmp_path / "drawing.py"
    file.write_text(EXAMPLE.replace(WIDTH, drawn), encoding="utf-8")
    paper_check.check(paper_files.read(file))


def test_a_file_without_a_version_is_trained_again_after_a_change(own_home, tmp_path):
    """One that states a version keeps its runs."""
    stated = EXAMPLE.replace('published="Frequency")', 'published="Frequency", version=3)')
    assert stated != EXAMPLE
    ids = []
    for source in (EXAMPLE, f"{EXAMPLE}\n# A remark.", EXAMPLE, stated, f"{stated}\n# A remark."):
        with paper_files.installed(tmp_path, frequency=source):
            settings = papers.module("frequency").Settings(image_size=64)
            training = train.make_training("frequency", "smoke-a", settings)
            file = tmp_path / "my_papers" / "frequency.py"
            expected = 3 if "version" in source else files.sha256(file)[:16]
            assert training.version == expected
            file.write_text("changed in the meantime", encoding="utf-8")
            assert train.make_training("frequency", "smoke-a", settings) == training
            ids.append(training.id)
    assert ids[0] == ids[2] != ids[1] and ids[3] == ids[4] != ids[0]


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
