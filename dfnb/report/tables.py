"""The tables of a report: calls of :func:`dfnb.report.metrics.measure`, and how they are printed.

Numbers stay numbers until :func:`pivot` formats them. Nothing here computes a metric, runs a
network or reads a dataset.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from dfnb.report import reading
from dfnb.report.detectors import MAIN, THIS_RUN, detectors
from dfnb.report.metrics import CORRELATION, FEWEST_SEEDS, SUMMARY, measure
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from facesets.files import write_bytes

# What tables print in place of the names of columns.
TITLES = {
    "iou": "IoU",
    "pixel_auc": "pixel AUC",
    "pixel_ap": "pixel AP",
    "pointing": "pointing game",
    "constant pixel_ap": "pixel AP of the mean-mask baseline",
    "energy": "relevance mass in the mask",
    "constant energy": "relevance mass of the mean-mask baseline",
}
BASELINE = "xception"  # the paper of the plain classifier
CONTROLS = ("edges", "random")  # maps that ignore the network
NO_NETWORK = "none (control)"  # what stands in place of their detector
WITH_SIGN = " (signed)"
ONE = ": one training"  # after a seed that is the only one
FEW_SETS = 3  # test sets that a caption names without their number
MOST_COLUMNS = 12  # of a table; with more, as of forty manipulation methods, they are its rows


# ---------------------------------------------------------------- what is measured


def main(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of main detectors, of the frames as they are.

    ``scores`` are those of :func:`dfnb.report.reading.scores`. A main detector is a paper's own
    training, not a variant of an ablation.
    """
    return scores[(scores["ablation"] == "") & (scores["corruption"] == "")]


def by_place(
    scores: pd.DataFrame,
    metrics: Sequence[str] = ("AUC",),
    by: Sequence[str] = ("detector",),
    mean_over: Sequence[str] = (),
    **options: Any,
) -> pd.DataFrame:
    """The table of :func:`measure` at each ``place`` of the scores, with the column ``place``.

    Each number is a mean over the test sets of a place and over ``mean_over``. ``place`` is that of
    :func:`dfnb.report.reading.scores`. The rows of each metric follow those of the one before it.

    Args:
        scores: Those of :func:`measure`.
        metrics: A sequence; a text would be split into its letters.
        by: As of :func:`measure`.
        mean_over: A sequence, like ``metrics``.
        options: The other arguments of :func:`measure`, such as ``minus``.
    """
    parts = []
    for name in metrics:
        for place, rows in scores.groupby("place", observed=True):
            numbers = measure(rows, name, by, ["test_set", *mean_over], **options)
            parts.append(numbers.assign(place=place))
    return joined(parts)


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several tables of numbers as one."""
    rows = [part for part in parts if len(part)]
    if not rows:
        return pd.DataFrame(columns=[*SUMMARY, "detector", "metric", "minus", "place"])
    return pd.concat(rows, ignore_index=True)


def pairs(scores: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """The difference in AUC of every two detectors, the later in ``scores`` minus the earlier.

    The :func:`plain` one counts as the first. The table and the ``options`` are those of
    :func:`by_place`.
    """
    first = plain(scores)
    names = [first, *(name for name in scores["detector"].unique() if name != first)]
    parts = []
    for position, name in enumerate(names[:-1]):  # the last one is later than all others
        rows = scores[scores["detector"].isin(names[position:])]
        parts.append(by_place(rows, minus=name, **options))
    return joined(parts)


def plain(scores: pd.DataFrame) -> str:
    """The detector that differences subtract: the plain classifier with the fewest changes.

    Without a detector of the paper BASELINE it is one of the first paper in the table; without any
    at all, the empty text.
    """
    names = scores.loc[scores["paper"] == BASELINE, "detector"].unique()
    names = list(names if len(names) else scores["detector"].unique())
    titles = [name.partition(", ")[0] for name in names]
    # Detectors that stand beside a paper's own have another title and follow these.
    own = [name for name, title in zip(names, titles) if title == titles[0]]
    return min(own, key=lambda name: name.count(", "), default="")


def minus_baseline(scores: pd.DataFrame) -> pd.DataFrame:
    """The AUC of this run minus that of the report's :func:`plain` one, see :func:`by_place`.

    The table has no rows where no plain classifier has the test sets of this run.
    """
    two = with_baseline(scores)
    names = [name for name in two["detector"].unique() if name != THIS_RUN]
    return by_place(two, minus=names[0]) if names else joined([])


def with_baseline(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of this run and of the report's :func:`plain` classifier, where there is one."""
    others = scores[(scores["detector"] != THIS_RUN) & (scores["paper"] == BASELINE)]
    return scores[scores["detector"].isin([THIS_RUN, plain(others)])]


def variants(scores: pd.DataFrame) -> pd.DataFrame:
    """The AUC of each variant of an ablation minus that of its reference, see :func:`by_place`.

    The reference is the variant MAIN or, where there is none, the paper's main detector. A mean
    over some of the reference's other datasets, because the variant was trained on one of them, is
    not called "cross-dataset": its ``place`` names them.
    """
    parts = []
    groups = scores.groupby(["paper", "ablation"], observed=True, sort=False)
    for (paper, ablation), rows in groups:
        is_main = (scores["paper"] == paper) & (scores["ablation"] == "")
        candidates = pd.concat([rows[rows["variant"] == MAIN], scores[is_main]])
        references = candidates["detector"].unique()  # the variant MAIN is first if there is one
        if ablation and len(references):
            names = [*rows["detector"].unique(), references[0]]
            differences = by_place(scores[scores["detector"].isin(names)], minus=references[0])
            is_reference = scores["detector"] == references[0]
            across = {*scores.loc[is_reference & (scores["place"] == "cross-dataset"), "test_set"]}
            is_part = (differences["place"] == "cross-dataset") & (
                differences["of_sets"].map(set) != across
            )
            place = differences["place"].where(~is_part, differences["of_sets"].map(ranges))
            parts.append(differences.assign(paper=paper, place=place))
    return joined(parts)


def sanity(maps: pd.DataFrame) -> pd.DataFrame:
    """The sanity check by detector and map: how alike maps are to those of random networks.

    ``maps`` are those of :func:`dfnb.report.reading.maps`, measured by
    :func:`dfnb.attribution.measures.sanity`. A map with negative values has a second row: with them
    it has WITH_SIGN after its name. All is of the first training of each detector, which
    notebook 08 compares. The columns are those of :func:`measure`, and

    - ``value``, ``low`` and ``high``: the mean CORRELATION of pairs of a frame and a random
      network, and its interval, in which people and random networks are resampled; NaN where no
      pair has a correlation;
    - ``grey``, the mean rank correlation with the map of a grey image; NaN where that is blank;
    - ``blank``, the share of pairs that have no correlation, because one of the maps is blank;
    - ``trained``, its seed as text.
    """
    checked = maps[maps["sanity"]].astype({"map": str})
    first = checked.groupby("detector", observed=True)["seed"].transform("min")
    checked = checked[checked["seed"] == first]
    by = ["detector", "map"]
    random = [name for name in checked if name.startswith("random ")]
    signed = [name for name in checked if name.startswith("signed ")]
    kept = checked.columns.difference([*random, *signed])
    parts = []
    for names, suffix in ((random, ""), (signed, WITH_SIGN)):
        pairs = checked.melt(kept, names, "network", CORRELATION, ignore_index=False)
        parts.append(pairs.assign(map=pairs["map"] + suffix))
    has_sign = parts[1].groupby(by, observed=True)[CORRELATION].transform("count") > 0
    parts[1] = parts[1][has_sign]  # most maps have none
    pairs = pd.concat(parts).sort_index(kind="stable")  # each map with its sign after the same map
    of_map = pairs.groupby(by, observed=True, sort=False)
    table = of_map[CORRELATION].agg(lambda each: each.isna().mean()).to_frame("blank")
    table["grey"] = checked.reindex(columns=[*by, "grey"]).groupby(by, observed=True)["grey"].mean()
    seed = of_map["seed"].first()
    table["trained"] = seed.astype(str) + ONE
    # The number of the random network stands for the seed, so that it is resampled like one.
    numbers = measure(
        pairs.assign(seed=pairs["network"].str.split().str[-1]), CORRELATION, by, "test_set"
    )
    numbers = numbers.set_index(by)
    numbers["of_seeds"] = seed.map(lambda of_map: (of_map,))
    numbers["seeds"] = 1
    numbers["over"] = numbers["over"].str.replace("seeds", "random networks")
    return table.join(numbers).reset_index().assign(metric=CORRELATION, minus="")


def controls_once(numbers: pd.DataFrame) -> pd.DataFrame:
    """Numbers of maps in which each of CONTROLS stands once, at the end, as of NO_NETWORK.

    These maps are the same for every detector: the rows are those of the first. ``numbers`` are of
    :func:`sanity`, or of :func:`measure` by detector and map.
    """
    is_control = numbers["map"].isin(CONTROLS)
    controls = numbers[is_control].assign(detector=NO_NETWORK)
    kept = [name for name in ("map", "test_set", "metric") if name in numbers]
    return pd.concat([numbers[~is_control], controls.drop_duplicates(kept)], ignore_index=True)


# ---------------------------------------------------------------- tables of trainings


def trainings(report: str) -> pd.DataFrame:
    """One row per main detector: images and seconds per training, seeds, network and device.

    Images are counted in all phases, seconds in the last one. Of the trainings, the mean of the
    images counts, the median of the seconds (another program may delay one), and the network, its
    initial weights and the device of the first.
    """
    rows = {}
    for detector in detectors(report):
        records = [run.record for run in detector.runs]
        if records and not detector.ablation:
            first = records[0]
            rows[detector.name] = {
                "images": round(np.mean([record.images_seen for record in records])),
                "seconds": round(np.median([record.wall_s for record in records])),
                "seeds": len(records),
                "network": "{backbone}, {image_size} px".format(**first.parameters.settings),
                "started from": first.weights_from,
                "device": first.environment["device"],
            }
    return pd.DataFrame.from_dict(rows, "index").rename_axis("detector")


def test_sets(report: str) -> pd.DataFrame:
    """One row per test set of a report: what was scored, and what is known of it.

    Columns: ``real videos``, ``fake videos``, ``clusters`` and ``frames``, how many were scored;
    ``compression`` and ``crop``, in words; ``in the mean``: "in-dataset" or "cross-dataset" (both,
    where detectors were trained on different datasets), "none" where its manifest sets it apart;
    and ``fingerprint``, which identifies its frames.
    """
    rows = reading.scores(report, level="frame")
    rows = rows[rows["corruption"] == ""]
    facts = {}
    for source in reading.sources(report):
        facts |= source.about.test_sets
    table = {}
    for name, of_set in rows.groupby("test_set", observed=True):
        videos = of_set[reading.UNITS["video"]].drop_duplicates()
        places = [
            each for each in ("in-dataset", "cross-dataset") if (of_set["place"] == each).any()
        ]
        table[name] = {
            "real videos": (videos["label"] == 0).sum(),
            "fake videos": (videos["label"] == 1).sum(),
            "clusters": videos["cluster"].nunique(),
            "frames": len(of_set[list(reading.UNITS["frame"])].drop_duplicates()),
            "compression": facts[name].compression,
            "crop": facts[name].crop,
            "in the mean": ", ".join(places) or "none",
            "fingerprint": facts[name].fingerprint,
        }
    return pd.DataFrame.from_dict(table, "index").rename_axis("test set")


def deviations(run: StoredRun) -> pd.DataFrame:
    """The settings of a run that differ from the published ones, one per row, as text.

    Columns: ``published``, the paper's defaults, and ``this run``.
    """
    record = run.record
    # The published trainings are taken to start from ImageNet weights.
    settings = {
        "published": {**record.detector.defaults, "initial weights": "ImageNet"},
        "this run": {**record.parameters.settings, "initial weights": record.weights_from},
    }
    table = pd.DataFrame(settings, dtype=object).map(str)  # a row per setting
    return table[table["published"] != table["this run"]]


# ---------------------------------------------------------------- as text


def cell(value: float, low: float, high: float, minus: str = "") -> str:
    """A value with its interval, ``0.853 [0.812, 0.889]``, that no line break divides.

    Differences show their sign; ``minus`` says what is subtracted. Numbers have three decimals, but
    two where the interval is wider than a tenth. Without a value: a dash.
    """
    if np.isnan(value):
        return "–"
    # A comparison with NaN is False, so a value without an interval has three decimals.
    number = f"{'+' if minus else ''}.{2 if high - low > 0.1 else 3}f"
    text = f"{value:{number}}"
    if not np.isnan(low):
        text += f" [{low:{number}}, {high:{number}}]"
    return text.replace(" ", "\u00a0")


def p_text(p: float) -> str:
    """A p value as tables print it: ``0.031``, ``< 0.001``, or a dash for NaN."""
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def cells(numbers: pd.DataFrame) -> list[str]:
    """The :func:`cell` of each row of :func:`measure`; with ``minus``, it shows its sign."""
    return list(map(cell, *(numbers[name] for name in ("value", "low", "high", "minus"))))


def pivot(
    numbers: pd.DataFrame,
    index: Sequence[str] = ("detector",),
    columns: str = "place",
) -> pd.DataFrame:
    """The numbers of :func:`measure` as a table of texts ``value [low, high]``, in their order.

    ``index`` and ``columns`` name columns of ``numbers``: their values are the table's rows and
    columns. Of several numbers with the same two values, only the first is shown. With more than
    MOST_COLUMNS columns the table is transposed.
    """
    if numbers.empty:
        return pd.DataFrame()
    texts = numbers.assign(text=cells(numbers)).replace({"metric": TITLES})
    table = texts.pivot_table(
        "text", list(index), columns, aggfunc="first", sort=False, observed=True
    )
    table = table.fillna("–")
    if table.shape[1] > MOST_COLUMNS:
        if len(index) > 1:  # one text per row, because it becomes the name of a column
            table.index = [", ".join(map(str, names)) for names in table.index]
        table = table.T
    return table.rename_axis(columns=None)


def listed(differences: pd.DataFrame, index: Sequence[str]) -> pd.DataFrame:
    """One difference per row as text, with its seeds; fewer than FEWEST_SEEDS are exploratory.

    Beside these stand the values of the seeds. ``differences`` are rows of :func:`measure` with
    ``minus``, such as those of :func:`pairs`. ``index`` names the columns that become the index.
    """
    # drop=False: cells reads the column minus to show the sign, also where minus is in the index.
    table = differences.set_index(list(index), drop=False)
    table["difference"] = cells(table)
    table["seeds"] = [*map(_seeds_text, table["of_seeds"], table["seed_values"])]
    return table[["difference", "seeds"]]


def outside(differences: pd.DataFrame, material: float) -> str:
    """A sentence: which of these differences have their interval wholly above or below a band.

    The band is from -material to material; ``differences`` are rows of :func:`by_place`.
    """
    names = differences["detector"].astype(str) + " (" + differences["place"].astype(str) + ")"
    above = ", ".join(names[differences["low"] > material])
    below = ", ".join(names[differences["high"] < -material])
    return f"Wholly above the band: {above or 'none'}; below it: {below or 'none'}."


def _seeds_text(seeds: Sequence[int], values: Sequence[float]) -> str:
    """The seeds of a difference; of fewer than FEWEST_SEEDS also their values, if several."""
    if len(seeds) >= FEWEST_SEEDS:
        return ranges(seeds)
    if len(seeds) == 1:
        return f"{seeds[0]}{ONE}"
    return f"{ranges(seeds)}, exploratory: {', '.join(f'{value:+.3f}' for value in values)}"


def claims(judged: pd.DataFrame) -> pd.DataFrame:
    """The claims as text; an undecided one says what difference it would probably have shown.

    ``judged`` is the table of :func:`dfnb.report.claims.judge`.
    """
    names = ["p_gain", "p_worse"]
    table = judged.assign(ours=cells(judged), **{name: judged[name].map(p_text) for name in names})
    detectable = judged["detectable"].map(" (detectable: {:.3f})".format)
    is_undecided = judged["verdict"] == "undecided"
    table["verdict"] += detectable.where(is_undecided & judged["detectable"].notna(), "")
    table = table.set_index(["detector", "claim", "on"])
    table = table[["ours", "verdict", *names, "registered"]]
    return table.rename(columns={"registered": "preregistered"})


# ---------------------------------------------------------------- captions and files


def caption(numbers: pd.DataFrame, test_sets: str = "") -> str:
    """How numbers of :func:`measure` were made, in sentences: all of it is read from their rows.

    ``test_sets`` is where a text with more than FEW_SETS of them links the table of all.
    """
    # Rows without any are those of claims that are not judged.
    is_number = [isinstance(seeds, tuple) for seeds in numbers.get("of_seeds", ())]
    if not any(is_number):
        return ""
    rows = numbers[is_number]
    sentences = [*_of_trainings(rows), _tested_on(rows, test_sets)]
    if {*rows["unit"]} == {"videos"}:
        sentences.append("A video's score is the mean over its frames.")
    covered = [_over(over) for over in rows["over"].unique()]
    sentences.append(f"Intervals: {'95 %, ' if rows['over'].any() else ''}{'; '.join(covered)}.")
    if (rows["seeds"] == 1).any():
        sentences.append("A number of one seed is of one training: another may say otherwise.")
    if rows["collapsed"].any():
        sentences.append("Runs that learned nothing are left out, unless all are.")
    return " ".join(sentences)


def _of_trainings(rows: pd.DataFrame) -> list[str]:
    """The sentences of a caption about training sets, seeds and checkpoints."""
    trainings = [each for of_row in rows["of_trainings"] for each in of_row]
    every = dict.fromkeys(each.detector for each in trainings)
    compared = rows["of_trainings"].map(lambda of_row: of_row[0].detector)
    seeds = rows["of_seeds"].groupby(compared, sort=False).unique()
    of_one = seeds.map(lambda of_rows: max(map(len, of_rows)) == 1)  # a row per seed, or one seed
    seeds = seeds.where(~of_one, seeds.map(lambda of_rows: [[*chain(*of_rows)]]))
    facts = {
        "Trained on": [(each.detector, each.train_set) for each in trainings],
        "Seeds": [(name, ranges(of_row)) for name, of_rows in seeds.items() for of_row in of_rows],
        "Checkpoint": [
            (each.detector, each.rule.removesuffix(f" of {each.train_set}")) for each in trainings
        ],
    }
    return [
        f"{name}: {_with_exceptions(pairs, every)}."
        for name, pairs in facts.items()
        if any(value for _, value in pairs)
    ]


def _tested_on(rows: pd.DataFrame, link: str) -> str:
    """The sentences of a caption about test sets and how much each number is of."""
    names = {name for of_row in rows["of_sets"] for name in of_row}
    text = f"Tested on: {ranges(names)}"
    if len(names) > FEW_SETS:
        count = f"{len(names)} test sets"
        text += f" ([{count}]({link}))" if link else f" ({count})"
    real, fake = (_span(rows[name]) for name in ("n_real", "n_fake"))
    counts = [f"{real} real"] if real else []  # maps are measured on fakes alone
    if fake:
        counts.append(f"{'as many' if fake == real else fake} fake")
    units = " or ".join(rows["unit"].unique())
    clusters = _span(rows["clusters"])
    return f"{text}. Each number is of {' and '.join(counts)} {units} in {clusters} clusters."


def _with_exceptions(pairs: Iterable[tuple[str, str]], every: Iterable[str]) -> str:
    """What most detectors have of pairs (detector, value), and what others have in its place.

    Such as "30 to 34 (30 to 33 for LAE)"; "30 to 34 or 30" where rows of one detector differ.
    ``every`` are the detectors of the table.
    """
    values = defaultdict(dict)  # as sets that keep their order
    for detector, value in pairs:
        values[detector][value or "not known"] = None
    detectors_of = defaultdict(list)
    for detector, of_detector in values.items():
        detectors_of[" or ".join(of_detector)].append(detector)
    most = max(detectors_of, key=lambda value: len(detectors_of[value]))
    others = [
        f"{value} for {_together(names, every)}"
        for value, names in detectors_of.items()
        if value != most
    ]
    return f"{most} ({'; '.join(others)})" if others else most


def _together(names: Iterable[str], every: Iterable[str]) -> str:
    """These names of detectors; "all of LAE", say, where they are all of ``every`` that LAE has.

    Likewise all with an ablation, such as "masks", or with a variant of it, such as "masks: 0 %".
    """
    groups = defaultdict(list)
    for name in every:
        title, _, variant = name.partition(", ")
        ablation = variant.partition(": ")[0]
        groups[f"all of {title}"].append(name)
        for shared in {ablation, variant} - {""}:
            groups[f"all with {shared}"].append(name)
        groups[f"all of {title}, {ablation}"].append(name)
    texts = {name: name for name in names}
    left = {*texts}
    for text, group in sorted(groups.items(), key=lambda each: -len(each[1])):
        if len(group) > 1 and left.issuperset(group):
            left.difference_update(group)
            texts |= dict.fromkeys(group, text)
    return " / ".join(dict.fromkeys(texts.values()))


def _over(over: str) -> str:
    """What an interval covers, from the column ``over`` of :func:`measure`, in words."""
    if not over:
        return "none where a class, or the frames of a threshold, have too few clusters"
    *most, last = over.split(", ")
    covered = f"over {', '.join(most)} and {last}" if most else f"over {last}"
    of = ["a mean over test sets"] if "test sets" in over else []
    of += [] if "seeds" in over else ["one training"]
    return f"of {' of '.join(of)}, {covered}" if of else covered


def _span(counts: pd.Series) -> str:
    """The lowest and the highest of some counts, but 0, as 200 to 400; empty if all are 0."""
    # As integers: a table that has also rows without a number has them as floats.
    known = counts[counts > 0].astype(int)
    ends = [known.min(), known.max()] if len(known) else []
    return " to ".join(dict.fromkeys(map("{:,}".format, ends)))


def ranges(names: Iterable[str | int]) -> str:
    """Names in order, those that count up by one as a range: bed, world-01 to world-24."""
    parts = []  # what is before the number at the end, the number and its digits
    for name in {*map(str, names)}:
        prefix, digits = re.fullmatch(r"(.*?)(\d*)", name).groups()
        parts.append((prefix, int(digits or 0), len(digits)))
    runs = []
    for prefix, number, width in sorted(parts):
        if runs and width and (prefix, number - 1, width) == runs[-1][-1]:
            runs[-1].append((prefix, number, width))
        else:
            runs.append([(prefix, number, width)])
    texts = [
        [f"{prefix}{number:0{width}}" if width else prefix for prefix, number, width in run]
        for run in runs
    ]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in texts)


def of_study(report: str, studies: Collection[str], text: str) -> Markdown | None:
    """A text about ``studies``, where ``report``, which is shown, is one of them; else nothing."""
    return Markdown(text) if report in studies else None


def folded(table: pd.DataFrame, title: str) -> Markdown:
    """A table of texts that opens by a click on its title, as below the figure of its numbers."""
    return Markdown(f"<details><summary>{title}</summary>{table.to_html()}</details>")


def show(
    table: pd.DataFrame,
    about: pd.DataFrame | str,
    folder: Path | None,
    name: str,
    title: str,
    run: StoredRun | None = None,
) -> list[Path]:
    """Display a table of texts under its title, and :func:`save` it; returns its path."""
    if table.empty:
        display(Markdown(f"*This report has no numbers for a table “{title}”.*"))
    else:
        display(Markdown(f"**{title}**"), table)
    return save(table, about, folder, name, title, run)


def save(
    table: pd.DataFrame,
    about: pd.DataFrame | str,
    folder: Path | None,
    name: str,
    title: str,
    run: StoredRun | None = None,
) -> list[Path]:
    """Save a table of texts; returns the path of its Markdown in the report's ``tables/``.

    Its numbers stand beside it as CSV. ``paper/tables/``, see
    :func:`dfnb.store.reports.paper_folder`, gets it as LaTeX, and its title and caption as text. An
    empty table is not saved.

    Args:
        table: Of :func:`pivot` or :func:`listed`, for example.
        about: The numbers of :func:`dfnb.report.metrics.measure` from which the texts were made:
            the CSV has them, and they make the caption. Of a table without such numbers, its
            caption.
        folder: Of the report, as a notebook's ``p.folder``. None: nothing is saved.
        name: Of the files.
        title: What the table shows, also the first line of the Markdown.
        run: This run, if the table is of it alone, see :func:`dfnb.store.reports.file_name`.
    """
    if table.empty or not folder:
        return []
    name = reports.file_name(folder.name, name, run)
    paper = reports.paper_folder(folder.name) / "tables"
    table = table.reset_index()
    is_text = isinstance(about, str)
    numbers = table if is_text else about
    text = about if is_text else caption(about)
    numbers = numbers.drop(columns="of_trainings", errors="ignore")  # they are in the caption
    write_bytes(folder / "tables" / f"{name}.csv", numbers.to_csv(index=False).encode())
    # As objects first, because a categorical column cannot be filled with a dash.
    table = table.astype(object).fillna("–").astype(str)
    write_bytes(paper / f"{name}.tex", latex(table).encode())
    write_bytes(paper / f"{name}.txt", f"{title}. {text}".strip().encode() + b"\n")
    markdown = table.to_markdown(index=False, disable_numparse=True)  # numbers as they are written
    text = about if is_text else caption(about, test_sets="test_sets.md")  # in the same folder
    markdown = f"# {title}\n\n{markdown}\n\n{text}\n"
    return [write_bytes(folder / "tables" / f"{name}.md", markdown.encode())]


# Characters that LaTeX's default fonts lack, or show as others.
IN_LATEX = {"\u00a0": "~", "–": "--", "−": "$-$", "×": r"$\times$", "…": r"\ldots{}", "|": "$|$"}


def latex(table: pd.DataFrame) -> str:
    """A table of texts as a ``tabular`` of LaTeX; it needs the package booktabs.

    Signed numbers and comparisons are in math mode, because a hyphen is no minus, and ``<`` is
    another character in LaTeX's default fonts.
    """
    text = table.to_latex(index=False, escape=True)
    text = re.sub(r"(?<![\w.])[+-]\d[\d.]*", r"$\g<0>$", text)  # not that of JPEG 45-75
    text = re.sub(r"([<>])(?: (?=\d))?([\d.]*)", r"$\1\2$", text)
    for character, replacement in IN_LATEX.items():
        text = text.replace(character, replacement)
    return text.replace("\n[", "\n{[}")  # else an argument of the line break or rule before it
