"""The papers at published size, by the profile for a GPU; batches are small, and people few."""

import torch
from steps import few_steps

from dfnb.data.loading import EpochSampler, FrameDataset, loader
from dfnb.running.planning import plan
from dfnb.training.train import make_training
from facesets.frames import load_frames, select

IMAGES = 2  # of a batch: the published one of Exposing the Deception has 256


def two_steps():
    """Two steps of each paper's last phase: paper, pixels, whether all is finite, and threads."""
    found = []
    for planned in plan("paper-portraits").trainings:
        p = planned.parameters
        changes = {"batch_size": IMAGES, "images_per_epoch": 2 * IMAGES}
        settings = p.settings().model_copy(update=changes)
        frames = select(load_frames("smoke-a"), "train")
        batches = loader(FrameDataset(frames, settings, 0), EpochSampler(frames, settings, 0))
        training = make_training(p.paper, "smoke-a", settings, 0, None, None)
        trainer = few_steps(training, frames, batches)
        is_finite = all(weights.isfinite().all() for weights in trainer.network.parameters())
        steps = trainer.progress.step
        found.append((p.paper, settings.image_size, steps, is_finite, torch.get_num_threads()))
    return found


def test_the_papers_take_two_steps_of_paper_portraits(own_home, apart):
    sizes = {"lae": 256, "locate_and_verify": 299, "exposing_the_deception": 224}
    expected = {(paper, size, 2, True, 1) for paper, size in sizes.items()}
    assert {*apart(two_steps)} == expected
