"""Which datasets a run can use: prepared ones, and the embedded benchmark, built when needed."""

from collections.abc import Iterable

import pandas as pd

from dfnb import files, manifests, records, synth
from dfnb.checks import DfnbError, suggestion
from dfnb.data.frames import dataset_record, load_frames, select


def is_available(dataset: str, *splits: str) -> bool:
    """Whether these splits are prepared, or of the embedded benchmark, which is built when needed.

    Without ``splits``, whether anything of the dataset is prepared.
    """
    if dataset in manifests.dataset_names("synth"):
        return True
    record = records.read_record(files.dataset_folder(dataset))
    # A dataset of an earlier version has no fingerprints. It counts here, so that the error that
    # reading it raises says what to do.
    return record is not None and {*splits} <= {*record.get("fingerprints", splits)}


def check_known(datasets: Iterable[str], source: str) -> None:
    """Raise :class:`DfnbError` for a name that is neither prepared nor in ``data_manifest``.

    A published dataset that is not prepared is known: the caller leaves it out, or fails later.
    """
    known = [*manifests.dataset_names("synth"), *manifests.dataset_names("real")]
    for dataset in datasets:
        if dataset not in known and not is_available(dataset):
            paths = sorted(files.home().glob("datasets/*/record.json"))
            prepared = [path.parent.name for path in paths]  # suggested first: the reader's own
            raise DfnbError(
                f"{source}: there is no dataset {dataset!r}, and `dfnb prepare` makes one of your "
                f"own files{suggestion(dataset, dict.fromkeys([*prepared, *known]))}"
            )


def check_tested(datasets: Iterable[str], source: str) -> None:
    """Raise :class:`DfnbError` for a prepared dataset whose test split lacks real or fake frames.

    Those of the embedded benchmark have both. All ``datasets`` must be there.
    """
    for dataset in datasets:
        if dataset not in manifests.dataset_names("synth"):
            kinds = (kind.split("/", 1) for kind in dataset_record(dataset)["n"])  # split/method
            methods = {method for split, method in kinds if split == "test"}
            lacking = [] if "real" in methods else ["no real frames"]
            lacking += [] if methods - {"real"} else ["no fake frames"]
            if lacking:
                raise DfnbError(
                    f"{source}: the test split of {dataset} has {' and '.join(lacking)}, so that "
                    "nothing can be measured; add videos, or choose another test set"
                )


def present(datasets: Iterable[str], source: str) -> list[str]:
    """The test sets that can be used; a printed line names those that are not prepared.

    Raises :class:`DfnbError` for an unknown name, and where no test set is left.
    """
    datasets = list(datasets)
    check_known(datasets, source)
    usable = [dataset for dataset in datasets if is_available(dataset, "test")]
    missing = [dataset for dataset in datasets if dataset not in usable]
    hint = f"{', '.join(missing)}: no split test is prepared, `dfnb data` says how to get it"
    if not usable:
        raise DfnbError(f"{source}: no test set is left; {hint}")
    if missing:
        print(f"left out: {hint}")
    return usable


def frames_to_show(name: str, split: str = "test") -> pd.DataFrame:
    """Frames of a split of a dataset, for pictures and examples.

    Of a dataset of painted faces these are the frames of its first people, whether it is built or
    not. So a notebook shows the same frames anywhere, and need not build a dataset to show ten. Of
    any other dataset, such as one of photographs (``portraits``), they are all frames of the split,
    after :func:`ensure_datasets`.
    """
    if name in manifests.dataset_names("synth") and not synth.preset(name).portraits:
        return load_frames(synth.excerpt(name, split))
    ensure_datasets(name)
    return select(load_frames(name), split)


def ensure_datasets(*names: str) -> None:
    """Build the missing datasets of the embedded benchmark.

    Raises :class:`DfnbError` for any other dataset that is not prepared.
    """
    for name in names:
        if name in manifests.dataset_names("synth"):
            synth.build(name)  # returns at once where the dataset is there
        else:
            dataset_record(name)  # raises where it is not prepared
