"""Trainings that are interrupted, in this process or by SIGKILL in one of their own."""

import multiprocessing
import os
import signal

import pytest
import torch

from dfnb import papers
from dfnb.training import train, trainer

# A forked process has imported everything already; CUDA does not survive a fork.
START = "spawn" if torch.cuda.is_available() else "fork"


def before_loss(patch, network, n, action):
    """Let a network do something else when it has computed its outputs for the n-th time."""
    losses = network.losses
    calls = iter(range(1, 1000))

    def changed(self, outputs, batch):
        if next(calls) == n:
            action()
        return losses(self, outputs, batch)

    patch.setattr(network, "losses", changed)


def kill(n, training):
    """Begin a training, which writes a checkpoint after every step, and kill it at the n-th loss.

    Args:
        n: From 1, over all phases.
        training: Made by ``train.make_training``.
    """
    process = multiprocessing.get_context(START).Process(target=_killed, args=(n, training))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _killed(n, training):
    trainer.CHECKPOINT_S = 0
    with pytest.MonkeyPatch.context() as patch:
        network = papers.module(training.paper).Network
        before_loss(patch, network, n, lambda: os.kill(os.getpid(), signal.SIGKILL))
        train.train(training)
