"""The run of a paper's notebook: trained or opened, scored, and in an open report also added."""

from dfnb.checks import DfnbError
from dfnb.running.datasets import ensure_datasets
from dfnb.running.measuring import Maps, ensure_scores
from dfnb.running.parameters import TrainingParameters
from dfnb.store import reports
from dfnb.store.runs import Training
from dfnb.training import train
from dfnb.training.runs import Run

MAP_FRAMES = 24  # forged frames, about, on which the maps of a notebook's run are measured


def open_or_train(p: TrainingParameters, with_maps: bool = False) -> Run:
    """The run with these parameters, which has the scores of its test sets.

    A finished run is opened if its weights are on this machine, in ``runs/`` or in a report; any
    other is trained, which may take hours and is announced. Test sets without scores are scored,
    and the scores are kept in ``runs/``. An open report gets a copy.

    Args:
        p: The parameters of a paper's notebook.
        with_maps: Whether its own maps and Grad-CAM are measured on the first test set, too.

    Raises :class:`DfnbError` for released weights, which have no training that a notebook could
    show, and where :func:`dfnb.training.train.train` or :func:`ensure_scores` does.
    """
    if p.released:
        raise DfnbError(
            f"released = {p.released!r} has no training that this notebook could show; a profile "
            "scores such weights, see docs/own.md, Profiles"
        )
    training = training_of(p)
    run = Run.find(training.id)
    if run is None or not run.has_weights:
        print("No finished run has these parameters: it is trained now.")
        ensure_datasets(p.train_set)
        run = train.train(training)
    of_maps = None
    if with_maps:
        # ensure_scores takes the own maps and Grad-CAM, whatever the names are: these and
        # sanity_frames are only used with is_first, which is not given here.
        of_maps = Maps(
            test_sets=p.test_sets[:1], frames=MAP_FRAMES, names=["Grad-CAM"], sanity_frames=2
        )
    scored = ensure_scores(run, p.report, p.test_sets, of_maps=of_maps)
    if not reports.is_closed(p.report):
        reports.keep(p.report, run, scored)
    return run


def training_of(p: TrainingParameters) -> Training:
    """The training with the parameters of a paper's notebook."""
    return train.make_training(
        p.paper, p.train_set, p.settings(), p.seed, p.seen_methods, p.frames_per_video
    )
