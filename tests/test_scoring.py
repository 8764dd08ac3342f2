"""Scores: those of the network for each frame, in any order; unsound ones are refused."""

import numpy as np
import pytest
import torch

from dfnb.data.loading import as_batch
from dfnb.papers import locate_and_verify, xception
from dfnb.running import measuring
from dfnb.store.units import KEYS
from dfnb.training import scoring
from dfnb.training.localisation import LOCALISATION, localisation
from facesets import sources
from facesets.checks import DfnbError
from facesets.frames import data_identity, dataset_record, load_frames, mean_mask, select

SETTINGS = locate_and_verify.Settings(
    backbone="dfnb_plain7",
    pretrained=False,
    image_size=64,
    mpff_width=8,
    fusion_width=16,
    fusion_out=16,
)


class UntrainedRun:
    """What :func:`scoring.score` needs of a run."""

    id = "untrained"
    settings = SETTINGS

    def network(self):
        torch.manual_seed(0)
        return locate_and_verify.Network(SETTINGS).eval()

    def mean_mask(self):
        return mean_mask(select(load_frames("smoke-a"), "train"))


def test_scores_and_regions_are_those_of_each_frame(home):
    run = UntrainedRun()
    table = scoring.score(run, "smoke-a")
    frames = select(load_frames("smoke-a"), "test")
    assert table["video"].tolist() == frames["video"].tolist()
    batch = as_batch(frames, SETTINGS)
    with torch.inference_mode():
        outputs = run.network()(batch["image"])
        log_odds = run.network().log_odds(outputs)
        located = run.network().localise(outputs)
    np.testing.assert_allclose(table["log_odds"], log_odds, atol=1e-5)
    np.testing.assert_allclose(table["score"], log_odds.sigmoid(), atol=1e-6)
    fake = (table["label"] == 1).to_numpy()
    assert table.loc[~fake, "iou":].isna().all(axis=None)
    for row in np.flatnonzero(fake)[::20]:
        mask = batch["mask"][row, 0].numpy() > 0.5
        ours = localisation(located[row].numpy(), mask)
        constant = localisation(run.mean_mask(), mask)
        for name in LOCALISATION:
            assert table.loc[row, name] == pytest.approx(ours[name], abs=1e-3)
            assert table.loc[row, f"constant {name}"] == pytest.approx(constant[name])
    turned = scoring.predict_frames(run.network(), frames.iloc[::-1], SETTINGS)
    np.testing.assert_allclose(table["log_odds"], turned["log_odds"].iloc[::-1], atol=1e-5)


def test_masks_of_the_training_are_read_only_for_a_network_that_locates(home):
    class Classifier(UntrainedRun):
        settings = xception.Settings(backbone="dfnb_plain7", pretrained=False, image_size=64)

        def network(self):
            return xception.Network(self.settings)

        def mean_mask(self):
            raise AssertionError("no map is compared with the mean mask")

    table = scoring.score(Classifier(), "smoke-b", videos=4)
    assert not [column for column in table if column in LOCALISATION or "constant" in column]


def test_a_video_is_scored_on_so_many_frames_at_most(home, monkeypatch):
    monkeypatch.setattr(sources, "TEST_FRAMES", 1)  # the videos have two
    videos = scoring.score(UntrainedRun(), "smoke-b")["video"]
    assert videos.is_unique and {*videos} == {*select(load_frames("smoke-b"), "test")["video"]}


def test_scores_under_corruption(home):
    run = UntrainedRun()
    clean = scoring.score(run, "smoke-a", videos=8)
    kept = measuring.describe("smoke-a")
    assert (kept.crop, kept.domain, kept.apart) == ("uncut, 96 pixels", "smoke-a", False)
    assert kept.fingerprint == data_identity(dataset_record("smoke-a"), ["test"])
    assert kept.n == len(sources.frames_to_score("smoke-a"))
    distances = []
    for severity in (1, 5):
        corrupted = scoring.score(run, "smoke-a", "noise", severity, videos=8)
        assert corrupted[list(KEYS)].equals(clean[list(KEYS)])
        assert "iou" not in corrupted
        distances.append((corrupted["log_odds"] - clean["log_odds"]).abs().mean())
    assert 0 < distances[0] < distances[1]


def test_nan_is_refused(home, monkeypatch):
    def log_odds(self, outputs):
        return outputs["cls"][:, 0] * float("nan")

    monkeypatch.setattr(locate_and_verify.Network, "log_odds", log_odds)
    with pytest.raises(DfnbError, match=r"the scores of untrained on smoke-a has .* NaN"):
        scoring.score(UntrainedRun(), "smoke-a")
