"""scripts/golden.py on stand-ins for the released codes, and what its four numbers notice.

The stand-ins have the names and calls that the script relies on, and small networks of their own.
"""

import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock, patch

import golden
import goldens
import numpy as np
import pytest
import torch

from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import xception

pytestmark = pytest.mark.filterwarnings("ignore:Importing from timm")
NETWORK = """
import torch
from dfnb.papers import backbones
from torch import nn

class MI_Net(nn.Module):
    def __init__(self, model):
        super().__init__()
        for i in (1, 2):
            branch = backbones.create("dfnb_plain7", False, 96, num_classes=0)
            setattr(self, f"region_model{i}", branch)
            setattr(self, f"local_linear{i}", nn.Linear(branch.head_hidden_size, 2))
        wide = 2 * branch.head_hidden_size
        self.baseline_linear = nn.Linear(wide, 2)
        layers = []
        for a, b in ((wide, 8), (8, 8)):
            layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(0.5)]
        self.bottleneck = nn.ModuleDict({"model": nn.Sequential(*layers, nn.Linear(8, 8))})
        self.linear = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        z = [self.region_model1(x), self.region_model2(x)]
        others = [self.local_linear1(z[1]), self.local_linear2(z[0])]
        both = torch.cat(z, 1)
        g = self.linear(self.bottleneck["model"](both))
        joint = self.baseline_linear(both)
        return {"p_y_given_z": g, "p_y_given_f_all": joint, "p_y_given_f1_fn_list": others}
"""
TRAINING = """
import argparse, wandb
import numpy as np
import torch
from torch import nn

MI_Net = None

def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu_num", required=True)
    return argparse.Namespace(model="small", save_model=True, **vars(parser.parse_args()))

class loss_functions:
    temperature, bml_method = 1.5, "auto"
    def __init__(self, *arguments, **options):
        self.balance_loss = nn.ParameterDict({"params": torch.ones(3)})
    def criterion(self, out, y):
        heads = [out["p_y_given_z"], out["p_y_given_f_all"], sum(out["p_y_given_f1_fn_list"])]
        return [nn.functional.cross_entropy(head, y) for head in heads]
    def balance_mult_loss(self, terms):
        return sum(s**2 * term for s, term in zip(self.balance_loss.params, terms))

def mixup_criterion(criterion, out, a, b, lam):
    return [lam * x + (1 - lam) * y for x, y in zip(criterion(out, a), criterion(out, b))]

class train_and_test_model:
    def __init__(self, args):
        self.args, self.net, self.loss_function = args, MI_Net(), loss_functions()
    def train(self):
        for epoch in range(self.args.epoch):
            self.net.train()
            weights = [*self.net.parameters(), self.loss_function.balance_loss.params]
            optimizer = torch.optim.Adam(weights, lr=1e-3)
            for x, y in self.train_loader:
                lam, index = np.random.beta(0.5, 0.5), torch.randperm(len(x))
                out = self.net(lam * x.cuda() + (1 - lam) * x[index])
                terms = mixup_criterion(self.loss_function.criterion, out, y, y[index], lam)
                loss = self.loss_function.balance_mult_loss(terms)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            self.test()
    def save_model(self, epoch, best):
        path = f"{self.args.save_path}/{self.args.name}/model_best.pth"
        torch.save({"state_dict": self.net.state_dict(), "epoch": epoch}, path)
"""
STREAMS = """
import torch
from torch import nn

class Two_Stream_Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.srm_conv0 = nn.Conv2d(3, 3, 1, bias=False)
        self.maps = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.BatchNorm2d(4))
        self.seg, self.cls, self.pro = nn.Conv2d(4, 2, 1), nn.Linear(4, 2), nn.Conv2d(4, 5, 1)
    def forward(self, x, masks=None):
        x = self.maps(x)
        found = [self.cls(x.mean((2, 3))), self.seg(x)]
        if SEMI:
            found.append(self.pro(x))
        pool = nn.MaxPool2d(16)
        return *found, pool(masks) if masks is not None else None
"""
LOSSES = """
import torch
from torch import nn

class FSCELoss:
    def __call__(self, seg, mask):
        return nn.functional.cross_entropy(seg, mask[:, 0].type(torch.cuda.LongTensor))

def sspsl_loss(seg, pro, label, mask):
    targets = (mask[:, 0] > 0).long()
    return nn.functional.cross_entropy(seg, targets), targets.flatten()
"""
LOOP = """
import numpy as np
import timm.optim.optim_factory as optim_factory
import torch, wandb
from torch import nn
from loss.seg_loss import FSCELoss
from utils.utils import AverageMeter

torch.autograd.set_detect_anomaly(True)

def main_worker(gpu, n, args, opt):
    torch.cuda.set_device(gpu)
    model = Two_Stream_Net()
    model.train()
    groups = optim_factory.add_weight_decay(model, opt["train"]["weight_decay"])
    optimizer = torch.optim.Adam(groups, lr=opt["train"]["lr"])
    for images, label, masks, *region in torch.utils.data.DataLoader(None):
        lam = 1 if region else np.random.beta(1, 1) if np.random.rand(1) > 0.5 else 1
        index = torch.arange(2) if region else torch.randperm(2)
        masks = (masks > 0).double()
        cls, seg, *_, masks = model(lam * images + (1 - lam) * images[index], masks)
        ce = nn.functional.cross_entropy(cls, label)
        patches = FSCELoss()(seg, masks)
        for name, value in (("Loss_ce", ce), ("Loss_seg", patches), ("Loss", ce + patches)):
            AverageMeter(name).update(value.item(), 2)
        optimizer.zero_grad()
        (ce + patches).backward()
        optimizer.step()
    validate()

def save_checkpoint(state, is_best, epoch, file):
    torch.save(state, f"{file}/checkpoint-{epoch:02d}.pth.tar")
"""
METER = """
class AverageMeter:
    def __init__(self, name):
        self.name = name
"""
STAND_INS = {
    "etd": {"models/MI_Net.py": NETWORK, "training.py": TRAINING},
    "lv": {
        "model/LVNet.py": f"SEMI = False{STREAMS}",
        "model/LVNet_semi.py": f"SEMI = True{STREAMS}",
        "loss/seg_loss.py": LOSSES,
        "loss/patch_unsup_loss.py": LOSSES,
        "utils/utils.py": METER,
        "train.py": LOOP,
        "train_semi.py": LOOP,
        "config/FF++.yml": "train: {lr: 5.0e-4, weight_decay: 1.0e-5, start_epoch: 0, epoch: 30}",
    },
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Run the script on a stand-in, in this process; what it replaces is put back."""

    def run(paper, *arguments):
        code = tmp_path / paper
        for name, text in STAND_INS[paper].items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["golden.py", paper, *map(str, arguments)])
        before = {*sys.modules}
        try:
            golden.main()
        finally:
            patch.stopall()
            for name in {*sys.modules} - before:
                module = sys.modules[name]
                places = f"{getattr(module, '__file__', '')} {getattr(module, '__path__', '')}"
                if isinstance(module, MagicMock) or str(tmp_path) in places:
                    del sys.modules[name]
        return tmp_path / arguments[-1]

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("paper", "files"),
    [
        ("etd", {"etd_0.npz", "etd_shapes.json", "etd_0_gradients.json", "etd_0_steps_32.json"}),
        (
            "lv",
            {
                f"{kind}{end}"
                for kind in ("lv", "lv_semi")
                for end in ("_0.npz", "_shapes.json", "_0_gradients.json", "_0_steps_299.json")
            },
        ),
    ],
)
def test_the_script_writes_the_same_files_each_time(tmp_path, make, paper, files):
    made = []
    for name in ("first", "again"):
        made.append(contents(make(paper, "--size", "32", tmp_path / paper, tmp_path / name)))
    assert made[0].keys() == files and made[0] == made[1]


def test_steps_are_those_of_the_loop(tmp_path, make):
    """The first step of Adam moves each element by the learning rate."""
    out = make("etd", "--size", "32", "--batch", "6", tmp_path / "etd", tmp_path / "out")
    (step,) = goldens.read_json(out / "etd_0_steps_32.json")
    assert step["images"] == [6, 3, 32, 32]
    assert step["losses"].keys() == {"ce", "gil", "lil", "total"}
    assert step["updates"]["balance"][0] == pytest.approx(1e-3 * 3**0.5)
    assert step["updates"]["linear.1.weight"][0] == pytest.approx(1e-3 * 4, rel=1e-3)
    out = make("lv", "--seed", "2", "--save", tmp_path / "lv", tmp_path / "out")
    first, second = goldens.read_json(out / "lv_2_steps_299.json")
    assert first["updates"]["cls.weight"][0] == pytest.approx(5e-4 * 8**0.5, rel=1e-3)
    assert second["updates"]["cls.weight"][0] > first["updates"]["cls.weight"][0]
    saved = torch.load(out / "lv.pth")["state_dict"]
    assert torch.equal(saved["cls.weight"], golden.golden_tensor("cls.weight", (2, 4)))
    assert len(goldens.read_json(out / "lv_scores.json")) == 8


def test_saved_weights_give_the_released_scores_from_the_picture_on(tmp_path, make):
    out = make("etd", "--size", "32", "--save", tmp_path / "etd", tmp_path / "out")
    settings = etd.Settings(
        backbone="dfnb_plain7",
        mean=golden.MEAN,
        std=golden.STD,
        interpolation="bilinear",
        pretrained=False,
        branches=2,
        fusion_widths=(8, 8, 8),
    )
    scores, released = goldens.saved_scores(out, "etd", settings)
    assert np.ptp(released) > 1e-3
    np.testing.assert_allclose(scores, released, atol=1e-6)
    red_first = settings.model_copy(update={"channel_order": "corrected"})
    wrong, _ = goldens.saved_scores(out, "etd", red_first)
    assert np.abs(wrong - released).max() > 1e-4


def test_without_a_checkout_the_code_is_cloned_at_its_commit(tmp_path, make, monkeypatch):
    monkeypatch.setitem(golden.RELEASED, "etd", (str(tmp_path / "nowhere"), "abc"))
    with pytest.raises(SystemExit, match=r"nowhere cannot be cloned here; name a folder with its"):
        make("etd", tmp_path / "out")
    code = tmp_path / "etd"  # which the first attempt has written
    git = ["git", "-C", str(code), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    monkeypatch.setitem(golden.RELEASED, "etd", (str(code), commit.strip()))
    folder = golden.clone("etd", str(tmp_path / "clone"))
    assert (Path(folder) / "training.py").read_text(encoding="utf-8") == TRAINING


MUTATIONS = {
    "transposed": lambda weight: weight.transpose(0, 1),
    "a sign": lambda weight: torch.cat([-weight[:1], weight[1:]]),
    "an exchanged channel": lambda weight: weight[:, [1, 0, *range(2, 8)]],
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_four_numbers_notice_what_a_norm_does_not(mutation):
    weight = torch.tensor(golden.normal(0, 8, 8, 3, 3))
    stored = {"a": golden.probes("a", weight)}
    same = goldens.elements_off({"a": weight.clone()}, xception, stored, 1e-12).loc["a"]
    assert same["norm"] == same["products"] == 0 and same["elements"] == 576
    changed = {"a": MUTATIONS[mutation](weight)}
    differences = goldens.elements_off(changed, xception, stored, 1e-12).loc["a"]
    assert differences["norm"] < 1e-15 and differences["products"] > 0.01


def test_a_tensor_that_should_not_change_may_not():
    nothing = {"a": golden.probes("a", torch.full((3,), 1e-17))}
    for value, is_so in ((1e-16, True), (1e-9, False)):
        far = goldens.elements_off({"a": torch.full((3,), value)}, xception, nothing, 1e-12)
        assert (far.loc["a", ["norm", "products"]] == 0).all() == is_so
