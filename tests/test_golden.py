"""The networks and losses are those of the released codes: outputs, losses and the gradient of every parameter.

Besides, one step of each paper's training gives the numbers it gave before, unless the VERSION says otherwise.

The rule of weights and inputs stands in tests/golden/README.md. ``DFNB_GOLDEN`` names another folder of golden files.
"""

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from goldens import (
    GOLDEN,
    GRADIENTS,
    OUTPUTS,
    forged,
    golden_batch,
    golden_tensor,
    golden_weights,
    gradients_off,
    loaded,
    off,
    pairs,
    released_weights,
    run,
)
from networks import recipe
from torch import nn

from dfnb import core, papers, train
from dfnb.core import DfnbError
from dfnb.data.frames import Sample
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify as lv

SEEDS = {
    kind: [int(found[1]) for p in sorted(GOLDEN.glob("*.npz")) if (found := re.fullmatch(rf"{kind}_(\d+)", p.stem))]
    for kind in ("lv", "lv_semi", "etd")
}
STEP = 1e-12  # relative; float64 here too, and other vector instructions or threads move no number by more than 1e-14


def check_gradients(network, names, file):
    wrong = {name: share for name, share in gradients_off(network, names, file).items() if not share <= GRADIENTS}
    assert not wrong


@pytest.fixture(scope="module")
def lv_weights():
    return golden_weights("lv")


@pytest.fixture(scope="module")
def etd_weights():
    return golden_weights("etd")


@pytest.fixture(scope="module")
def lv_network(lv_weights):
    return loaded(lv.Network(lv.Settings(pretrained=False)), lv_weights)


@pytest.fixture(scope="module")
def etd_network(etd_weights):
    """The golden images are what the network itself gets, after the channels have changed places."""
    return loaded(etd.Network(etd.Settings(pretrained=False, channel_order="corrected")), etd_weights)


def test_there_are_golden_outputs():
    assert all(SEEDS.values())
    assert all((GOLDEN / f"{kind}_0_gradnorm.json").exists() for kind in SEEDS)


@pytest.mark.parametrize("seed", SEEDS["lv"])
def test_locate_and_verify_is_the_released_network(lv_network, seed):
    golden = np.load(GOLDEN / f"lv_{seed}.npz")
    mask = forged(seed)
    batch = golden_batch(seed, [0, 1], 299, mask)
    outputs, losses = run(lv_network, batch)
    assert np.array_equal(lv.patch_labels(mask, (19, 19)).numpy(), golden["mask"][:, 0])
    compared = pairs("lv", batch, outputs, losses, golden)
    assert {name: off(*pair) for name, pair in compared.items() if not off(*pair) < OUTPUTS} == {}
    check_gradients(lv_network, lv, GOLDEN / f"lv_{seed}_gradnorm.json")


@pytest.mark.parametrize("seed", SEEDS["lv_semi"])
def test_sspsl_is_the_released_one(monkeypatch, seed):
    """The golden code was given the patches of the masks as its reference region."""
    golden = np.load(GOLDEN / f"lv_semi_{seed}.npz")
    settings = lv.Settings(pretrained=False, sspsl=True, mixup_probability=0.0)
    network = loaded(lv.Network(settings), golden_weights("lv_semi"))
    region = lv.patch_labels(forged(seed), (19, 19)) == 1
    monkeypatch.setattr(lv, "reference_region", lambda *arguments: region)
    batch = golden_batch(seed, [0, 1], 299) | {"has_mask": torch.tensor([True, False])}
    outputs, losses = run(network, batch)
    assert max(off(outputs["cls"], golden["cls"]), off(outputs["seg"], golden["seg"])) < OUTPUTS
    projection = F.normalize(torch.tensor(golden["pro"], dtype=torch.float64), dim=1)
    torch.testing.assert_close(outputs["projection"], projection, rtol=0, atol=2e-3)  # of golden float16
    assert network.pseudo(outputs, batch).flatten().tolist() == golden["sspsl_targets"].tolist()
    assert max(off(losses["cls"], golden["loss_ce"]), off(losses["seg"], golden["sspsl_loss"])) < OUTPUTS
    assert off(losses["total"], golden["loss_ce"] + golden["sspsl_loss"]) < OUTPUTS
    check_gradients(network, lv, GOLDEN / f"lv_semi_{seed}_gradnorm.json")


@pytest.mark.parametrize("seed", SEEDS["etd"])
def test_exposing_the_deception_is_the_released_network(etd_network, seed):
    golden = np.load(GOLDEN / f"etd_{seed}.npz")
    batch = golden_batch(seed, [0, 1, 1, 0], 224)
    outputs, losses = run(etd_network, batch)
    compared = pairs("etd", batch, outputs, losses, golden)
    assert {name: off(*pair) for name, pair in compared.items() if not off(*pair) < OUTPUTS} == {}
    assert off(etd_network.balance.grad, golden["awl_grad"]) < OUTPUTS
    check_gradients(etd_network, etd, GOLDEN / f"etd_{seed}_gradnorm.json")

    fixed, transport = (
        outputs_under(outputs, batch, weighting="fixed"),
        outputs_under(outputs, batch, estimator="sinkhorn"),
    )
    assert off(fixed["total"], golden["total_hyper"]) < OUTPUTS
    ce, gil, lil = golden["losses_w"]
    assert (transport["ce"].item(), transport["gil"].item()) == pytest.approx((ce, gil), rel=OUTPUTS)
    assert -transport["lil"].log().item() == pytest.approx(-np.log(lil), rel=OUTPUTS)  # of a number near exp(-30)


def outputs_under(outputs, batch, **changes):
    """The losses of given outputs under other settings: ``losses`` depends on nothing else."""
    network = etd.Network(etd.Settings(backbone="dfnb_plain7", pretrained=False, **changes))
    kept = {name: value for name, value in outputs.items() if name != "balance" or network.balance is not None}
    return network.losses(kept, batch)


def test_released_checkpoints_load_in_any_wrapping_without_what_has_no_effect(lv_network, lv_weights):
    semi = {"pro_header.2.weight": torch.zeros(256, 728, 1, 1)}
    for checkpoint in (
        {"state_dict": {f"module.{name}": w for name, w in lv_weights.items()}},
        {"model": lv_weights | semi},
    ):
        nn.init.zeros_(lv_network.cls_head[1].weight)
        released_weights.load(lv_network, checkpoint, lv)
        assert off(lv_network.cls_head[1].weight, lv_weights["cls_header.5.weight"].numpy()) == 0


def test_a_wrong_checkpoint_is_explained_and_nothing_loaded(lv_network, lv_weights):
    before = lv_network.cls_head[1].bias.detach().clone()
    bad = lv_weights | {"head.weight": torch.zeros(1), "score0.conv.weight": torch.zeros(512, 3, 1, 1)}
    bad["cls_header.5.bias"] = torch.ones(2)
    del bad["lfe1.gamma"]
    with pytest.raises(DfnbError, match="of the released Locate and Verify") as error:
        released_weights.load(lv_network, bad, lv)
    for part in ("1 missing (lfe1.gamma)", "1 unexpected (head.weight)", "1 of another shape (score0.conv.weight)"):
        assert part in str(error.value)
    assert torch.equal(lv_network.cls_head[1].bias, before)


# ------------------------------------------------------------------------------------------------ one step of a training

STEPS = GOLDEN / "steps.json"
CASES = {
    "xception": {},
    "lae": {"attention_weight": 1.0},
    "locate_and_verify": {"dropout": 0.0},
    "locate_and_verify with SSPSL": {"dropout": 0.0, "sspsl": True, "mixup_probability": 0.0},
    "exposing_the_deception": {"dropout": 0.0},
    "self_blended_images": {},
    "self_blended_images with samples": {},
}
SAMPLES = 1e-4  # relative; uint8 images of float32 arithmetic, of which other vector instructions round a few pixels otherwise


def samples(paper, settings):
    """What a paper makes of one frame in 40 draws: grey levels and masks of its samples, and how far these are apart."""
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 1, (96, 96, 3)).astype(np.float32)
    image = np.clip(128 + 160 * cv2.GaussianBlur(noise, (0, 0), 4) + 20 * noise, 0, 255).astype(np.uint8)
    points = np.float32([[38, 44], [58, 45], [48, 56], [41, 66], [56, 66]])
    frame = Sample(image, np.zeros((96, 96), bool), points, 0, has_mask=True)
    made = [settings.samples(frame, core.rng("golden samples", draw)) for draw in range(40)]
    apart = np.mean([np.abs(np.subtract(*(each.image.astype(float) for each in pair))).mean() for pair in made])
    numbers = {"apart": float(apart)}
    for place in range(settings.samples_per_frame):
        of_place = [pair[place] for pair in made]
        numbers[f"grey {place}"] = float(np.mean([each.image.mean() for each in of_place]))
        numbers[f"masked {place}"] = float(np.mean([each.mask.mean() for each in of_place]))
    return {"version": [train.VERSION, paper.VERSION], "numbers": numbers}


def step(case):
    """The losses of a small network with fixed weights before and after a step of its optimiser, and its gradient's norm.

    In training mode and float64, without dropout: neither a random number nor the order of sums decides.
    """
    paper = papers.module(case.split(" with ")[0])
    settings = recipe(case.split(" with ")[0], **CASES[case])
    if case.endswith(" with samples"):
        return samples(paper, settings)
    network = paper.Network(settings).double().train()
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(golden_tensor(name, tuple(value.shape)))
    mask = torch.zeros(4, 1, 96, 96)
    mask[1::2, :, 20:50, 30:70] = 1
    batch = golden_batch(0, [0, 1, 0, 1], 96, mask) | {"epoch": 0}
    batch["landmarks"] = torch.tensor([[30.0, 30], [66, 30], [48, 50], [34, 70], [62, 70]]).expand(4, 5, 2)
    batch["has_mask"][3] = not getattr(settings, "sspsl", False)
    optimiser, _ = train._optimisation(network, settings, 10)
    _, before = run(network, batch)
    if moved := network.moved():  # then the gradient is that of the second pass
        with moved:
            run(network, batch)
    squares = [value.grad.square().sum() for value in network.parameters() if value.grad is not None]
    optimiser.step()
    _, after = run(network, batch)
    numbers = {f"{name} before": value.item() for name, value in before.items()} | {
        "gradient": sum(squares).sqrt().item()
    }
    numbers |= {f"{name} after": value.item() for name, value in after.items()}
    return {"version": [train.VERSION, paper.VERSION], "numbers": numbers}


def tolerance(case):
    return SAMPLES if case.endswith(" with samples") else STEP


def test_every_paper_has_a_step():
    """And those that make their own samples have them among the cases too."""
    making = {name for name in papers.names() if papers.module(name).Settings().samples_per_frame > 1}
    assert {case.split(" with ")[0] for case in CASES} == {*papers.names()}
    assert {case.split(" with ")[0] for case in CASES if case.endswith(" with samples")} == making


@pytest.mark.parametrize("case", CASES)
def test_a_step_gives_other_numbers_only_with_another_version(case):
    stored, now = json.loads(STEPS.read_text(encoding="utf-8"))[case], step(case)
    assert stored["version"] == now["version"], (
        f"a VERSION was raised: store the new numbers, python {Path(__file__).name}"
    )
    assert now["numbers"] == pytest.approx(stored["numbers"], rel=tolerance(case), abs=0), (
        "the numbers changed: raise the paper's VERSION"
    )


def test_changed_numbers_are_stored_only_with_another_version(tmp_path, monkeypatch):
    stored = {"xception": step("xception")}
    stored["xception"]["numbers"]["gradient"] *= 1 + 1e-11
    text = json.dumps(stored)
    monkeypatch.setattr(sys.modules[__name__], "CASES", {"xception": {}})
    monkeypatch.setattr(sys.modules[__name__], "STEPS", tmp_path / "steps.json")
    STEPS.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match="xception: raise the paper's VERSION first"):
        write_steps()
    assert STEPS.read_text(encoding="utf-8") == text
    monkeypatch.setattr(papers.module("xception"), "VERSION", papers.module("xception").VERSION + 1)
    write_steps()
    assert json.loads(STEPS.read_text(encoding="utf-8")) == {"xception": step("xception")}


def write_steps():
    """Store the numbers of all steps; refused where they changed and no VERSION says so."""
    stored = json.loads(STEPS.read_text(encoding="utf-8")) if STEPS.exists() else {}
    steps = {case: step(case) for case in CASES}
    for case in set(stored) & set(steps):
        same = steps[case]["numbers"] == pytest.approx(stored[case]["numbers"], rel=tolerance(case), abs=0)
        assert same or steps[case]["version"] != stored[case]["version"], f"{case}: raise the paper's VERSION first"
    STEPS.write_text(json.dumps(steps, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_steps()
