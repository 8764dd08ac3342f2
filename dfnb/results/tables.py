"""The tables of a report: calls of :func:`dfnb.results.metrics.measure`, and how they are printed.

Numbers stay numbers until :func:`pivot` formats them. Nothing here computes a metric, runs a
network or reads a dataset.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from dfnb.results import reading
from dfnb.results.detectors import FOLD, MAIN, THIS_RUN, detectors
from dfnb.results.metrics import CORRELATION, FEWEST_CLUSTERS, FEWEST_SEEDS, SUMMARY, measure
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from facesets.checks import DfnbError
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
MOST_COLUMNS = 12  # of a table; with more, as of forty manipulation methods, they are its rows


# ---------------------------------------------------------------- what is measured


def main(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of main detectors, of the frames as they are.

    ``scores`` are those of :func:`dfnb.results.reading.scores`. A main detector is a paper's own
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
    :func:`dfnb.results.reading.scores`. The rows of each metric follow those of the one before it.

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
    names = [*filter(None, dict.fromkeys([plain(scores), *scores["detector"].unique()]))]
    parts = []
    for position, name in enumerate(names[:-1]):  # the last one is later than all others
        rows = scores[scores["detector"].isin(names[position:])]
        parts.append(by_place(rows, minus=name, **options))
    return joined(parts)


def plain(scores: pd.DataFrame) -> str:
    """The detector that differences subtract: a plain classifier.

    Of several, it is the one that shares most seeds with the other detectors. Without a detector of
    the paper BASELINE it is one of the first paper in the table; without any at all, the empty
    text.
    """
    candidates = scores[scores["detector"] != THIS_RUN]
    is_plain = candidates["paper"] == BASELINE
    names = candidates.loc[is_plain if is_plain.any() else slice(None), "detector"].unique()
    titles = [name.partition(", ")[0] for name in names]
    # Detectors that stand beside a paper's own have another title and follow these.
    own = [name for name, title in zip(names, titles) if title == titles[0]]
    trained = scores[["detector", "seed"]].drop_duplicates()
    others = trained.loc[~trained["detector"].isin(own), "seed"]
    seeds = dict(iter(trained.groupby("detector", observed=True)["seed"]))
    return max(own, key=lambda name: others.isin(seeds[name]).sum(), default="")


def not_compared(scores: pd.DataFrame, minus: str) -> str:
    """A sentence on the detectors from which ``minus`` is not subtracted, and why; perhaps empty.

    Differences are made seed by seed, on the same videos.
    """
    trained = scores[["detector", "seed", "test_set"]].drop_duplicates()
    is_minus = trained["detector"] == minus
    if is_minus.all() or not is_minus.any():
        return "There is no other detector to compare with."
    texts = []
    for name, rows in trained[~is_minus].groupby("detector", observed=True, sort=False):
        for column, word in (("seed", "seed"), ("test_set", "test set")):
            if not rows[column].isin(trained.loc[is_minus, column]).any():
                texts.append(f"{name} (no shared {word})")
                break
    return f"Not compared with {minus}: {', '.join(texts)}." if texts else ""


def with_baseline(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of this run and of the report's :func:`plain` classifier, where there is one."""
    is_own = scores["detector"] == THIS_RUN
    two = scores[is_own | (scores["paper"] == BASELINE)]
    is_plain = (two["detector"] == plain(two)) & (two["paper"] == BASELINE)
    return two[(two["detector"] == THIS_RUN) | is_plain]


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
            # Without an error, it is a run of the reference under a second name.
            differences = differences[differences["error"] != 0]
            is_reference = scores["detector"] == references[0]
            across = {*scores.loc[is_reference & (scores["place"] == "cross-dataset"), "test_set"]}
            is_part = (differences["place"] == "cross-dataset") & (
                differences["of_sets"].map(set) != across
            )
            place = differences["place"].where(~is_part, differences["of_sets"].map(", ".join))
            parts.append(differences.assign(paper=paper, place=place))
    return joined(parts)


def sanity(maps: pd.DataFrame) -> pd.DataFrame:
    """The sanity check by detector and map: how alike maps are to those of random networks.

    ``maps`` are those of :func:`dfnb.results.reading.maps`, measured by
    :func:`dfnb.attribution.measures.compare_with_random`. A map with negative values has a second
    row: with them it has WITH_SIGN after its name. All is of the first training of each detector,
    which notebook 08 compares. The columns are those of :func:`measure`, and

    - ``value``, ``low`` and ``high``: the mean CORRELATION of pairs of a frame and a random
      network, and its interval, in which people and random networks are resampled; NaN where no
      pair has a correlation;
    - ``grey``, the mean rank correlation with the map of a grey image; NaN where that is blank;
    - ``blank``, the share of pairs that have no correlation, because one of the maps is blank.
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
                "seeds": len({run.seed for run in detector.runs}),  # each perhaps in folds
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


def clips(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per video, the highest first: what it is, and its P(fake) by each detector, as text.

    ``scores`` are of videos; P(fake) is the mean over the seeds.
    """
    means = scores.pivot_table(
        "score", ["test_set", "video", "method"], "detector", observed=True, sort=False
    )
    order = means.mean(axis=1).sort_values(ascending=False, kind="stable").index
    table = means.loc[order].map("{:.3f}".format, na_action="ignore").fillna("–")
    return table.rename_axis(columns=None)


def deviations(run: StoredRun) -> pd.DataFrame:
    """The settings of a run that differ from its paper's defaults, one per row, as text.

    Columns: ``default`` and ``this run``. A default that the paper's file does not state is one of
    the contract, and was published by nobody.
    """
    record = run.record
    defaults = record.detector.defaults
    pretrained = defaults["pretrained"]
    if isinstance(pretrained, bool):
        # The published trainings are taken to start from ImageNet weights.
        pretrained = "ImageNet" if pretrained else "random weights"
    settings = {
        "default": {**defaults, "initial weights": pretrained},
        "this run": {**record.parameters.settings, "initial weights": record.weights_from},
    }
    names = list(dict.fromkeys([*settings["default"], *settings["this run"]]))
    # A setting that was added later has no default in an older record.
    texts = {
        column: [str(values.get(name, "–")) for name in names]
        for column, values in settings.items()
    }
    table = pd.DataFrame(texts, names)
    return table[table["default"] != table["this run"]]


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
    MOST_COLUMNS columns the table is transposed. Raises :class:`DfnbError` for a name that is none
    of a column.
    """
    if numbers.empty:
        return pd.DataFrame()
    for name in (*index, columns):  # pandas would take a list of other names for those of rows
        if name not in numbers:
            there = ", ".join(each for each in numbers if each not in SUMMARY)
            raise DfnbError(
                f"there is no column {name!r} for rows or columns; name some of {there}"
            )
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
    values = [", ".join(map("{:+.3f}".format, of_row)) for of_row in table["seed_values"]]
    table["seeds"] = [
        f"{text}: {of_row}" if text.endswith("exploratory") else text
        for text, of_row in zip(map(_seeds_text, table["of_seeds"]), values)
    ]
    return table[["difference", "seeds"]]


def finding(differences: pd.DataFrame, material: float) -> str:
    """A sentence per place: which differences have their interval wholly outside a band.

    The band is from -material to material; ``differences`` are rows of :func:`by_place`. A place of
    which all numbers are of one training each says so.
    """
    sentences = []
    for (place, minus), rows in differences.groupby(["place", "minus"], observed=True, sort=False):
        parts = []
        sides = {"above": rows["low"] > material, "below": rows["high"] < -material}
        for side, is_there in sides.items():
            names = [*rows.loc[is_there, "detector"].astype(str)]
            if names:
                verb = "are" if len(names) > 1 else "is"
                parts.append(f"{_listed(names)} {verb} more than {material} {side} {minus}")
        if not parts:
            parts = [f"no detector is shown to differ from {minus} by more than {material}"]
        where = place if place in ("in-dataset", "cross-dataset") else f"on {place}"
        alone = " (one training each)" if rows["seeds"].max() == 1 else ""
        metric = rows["metric"].iloc[0]
        sentence = f"{where}, {'; '.join(parts)} in {metric}{alone}."
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    """Names as in a sentence: "A", "A and B", "A, B and C"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _seeds_text(seeds: Sequence[int]) -> str:
    """The seeds of a number, and whether they are too few for a verdict."""
    if len(seeds) == 1:
        return f"{seeds[0]}{ONE}"
    return ranges(seeds) + (", exploratory" if len(seeds) < FEWEST_SEEDS else "")


def claims(judged: pd.DataFrame) -> pd.DataFrame:
    """The claims as text; beside a tested one, what difference it would probably have shown.

    ``judged`` is the table of :func:`dfnb.results.claims.judge`.
    """
    p_values = {name: judged[name].map(p_text) for name in ("p_gain", "p_worse")}
    detectable = judged["detectable"].map("{:.3f}".format).where(judged["p_gain"].notna(), "–")
    table = judged.assign(ours=cells(judged), detectable=detectable, **p_values)
    table = table.set_index(["detector", "claim", "on"])
    table = table[["ours", "verdict", "detectable", *p_values, "registered"]]
    return table.rename(columns={"registered": "preregistered"})


# ---------------------------------------------------------------- what numbers are of


def facts(numbers: pd.DataFrame) -> pd.DataFrame:
    """What each number of :func:`measure` is of, as text; claims without a number have no row.

    Columns: ``trained on``, ``seeds``, ``collapsed`` (runs that are left out, if any),
    ``original/forged``, with the unit, and ``clusters`` of people.
    """
    rows = numbers[numbers["seeds"].notna()]
    counts = [f"{real:,.0f}/{fake:,.0f}" for real, fake in zip(rows["n_real"], rows["n_fake"])]
    table = {
        "trained on": _trained_on(rows),
        "seeds": rows["of_seeds"].map(_seeds_text),
        "collapsed": [f"{runs:.0f}" if runs else "" for runs in rows["collapsed"]],
        f"original/forged {' or '.join(rows['unit'].unique())}": counts,
        "clusters": rows["clusters"].map("{:,.0f}".format),
    }
    if "seed" in rows:  # each number is of the one that it names
        del table["seeds"]
    return pd.DataFrame(table, index=rows.index, dtype=object)


def _trained_on(rows: pd.DataFrame) -> list[str]:
    """The training sets of each number.

    Of networks that were trained on folds, each with a fold left out: a test set that is no fold is
    scored by those of one fold alone.
    """
    texts = []
    for trainings, test_sets in zip(rows["of_trainings"], rows["of_sets"]):
        are_folds = any(re.search(FOLD, name) for name in test_sets)
        left_out = f" without {'the fold tested' if are_folds else 'one fold'}"
        names = dict.fromkeys(train_set for _, train_set, _ in trainings if train_set)
        texts.append(" / ".join(name.replace("-fold-{fold}", left_out) for name in names))
    return texts


def described(table: pd.DataFrame, numbers: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A table with a column for each of the :func:`facts` in which its rows differ; a sentence.

    The sentence has the facts that all rows share, and what is resampled for the intervals.

    Args:
        table: Of :func:`pivot` or :func:`listed`; its index has names of columns of ``numbers``.
        numbers: Those of :func:`measure` in it. Different facts of one row stand with "or".
    """
    numbers = numbers.reset_index(drop=True)
    of_numbers = facts(numbers).drop(columns=table.columns, errors="ignore")
    if of_numbers.empty:
        return table, ""
    index = [numbers.loc[of_numbers.index, name] for name in table.index.names if name in numbers]
    by = index or (lambda _: 0)  # as one row where it names none
    of_rows = of_numbers.groupby(by, observed=True, sort=False).agg(_either)
    is_shared = of_rows.nunique() == 1
    parts = [
        f"{name} {value}" for name, value in of_rows.loc[:, is_shared].iloc[0].items() if value
    ]
    over = numbers.loc[of_numbers.index, "over"].str.replace(", ", " and ")
    covered = f"95 % intervals over {_either(over[over != ''])}"
    if not over.all():
        covered += ", where there is one"
    if not over.any():
        covered = "no interval"
        if (numbers.loc[of_numbers.index, "clusters"] < FEWEST_CLUSTERS).all():
            covered += ", which needs three clusters"
    text = "; ".join([*parts, covered])
    columns = of_rows.loc[:, ~is_shared]
    table = table.join(columns).fillna(dict.fromkeys(columns, "–"))
    return table, f"{text[0].upper()}{text[1:]}."


def _either(texts: pd.Series) -> str:
    """Different texts in their order, as "a or b"."""
    return " or ".join(dict.fromkeys(texts))


def caption(numbers: pd.DataFrame) -> str:
    """The sentence of :func:`described` for a figure with a line per detector."""
    lines = pd.DataFrame(index=pd.Index(numbers.get("detector", []), name="detector"))
    return described(lines, numbers)[1]


def ranges(seeds: Iterable[int]) -> str:
    """Seeds in order: those of a range without a gap as "30 to 34", others as "30, 32"."""
    ordered = sorted({*seeds})
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))


def of_study(report: str, studies: Collection[str], text: str) -> Markdown | None:
    """A text about ``studies``, where ``report``, which is shown, is one of them; else nothing."""
    return Markdown(text) if report in studies else None


def folded(table: pd.DataFrame, title: str) -> Markdown:
    """A table of texts that opens by a click on its title, as below the figure of its numbers."""
    return Markdown(f"<details><summary>{title}</summary>{table.to_html()}</details>")


# ---------------------------------------------------------------- files


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
        whole, text = (table, about) if isinstance(about, str) else described(table, about)
        display(Markdown(f"**{title}**"), whole, Markdown(text))
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
    :func:`dfnb.store.reports.paper_folder`, gets it, and its caption, as LaTeX. An empty table is
    not saved.

    Args:
        table: Of :func:`pivot` or :func:`listed`, for example.
        about: The numbers of :func:`dfnb.results.metrics.measure` from which the texts were made:
            the CSV has them, and the table is :func:`described` by them. Of a table without such
            numbers, its caption.
        folder: Of the report, as a notebook's ``p.folder``. None: nothing is saved.
        name: Of the files.
        title: What the table shows, also the first line of the Markdown.
        run: This run, if the table is of it alone, see :func:`dfnb.store.reports.file_name`.
    """
    if table.empty or not folder:
        return []
    name = reports.file_name(folder.name, name, run)
    paper = reports.paper_folder(folder.name) / "tables"
    if isinstance(about, str):
        text, numbers = about, table.reset_index()
    else:
        table, text = described(table, about)
        numbers = _unrounded(about)
    write_bytes(folder / "tables" / f"{name}.csv", numbers.to_csv(index=False).encode())
    # As objects first, because a categorical column cannot be filled with a dash.
    table = table.reset_index().astype(object).fillna("–").astype(str)
    write_bytes(paper / f"{name}.tex", latex(table).encode())
    write_bytes(paper / f"{name}-caption.tex", tex(f"{title}. {text}\n").encode())
    markdown = table.to_markdown(index=False, disable_numparse=True)  # numbers as they are written
    markdown = f"# {title}\n\n{markdown}\n\n{text} [All columns, unrounded]({name}.csv)\n"
    return [write_bytes(folder / "tables" / f"{name}.md", markdown.encode())]


def _unrounded(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers of a table as its CSV has them: with all that they are of."""
    rows = numbers[numbers["seeds"].notna()]
    rules = [" / ".join(dict.fromkeys(rule for *_, rule in each)) for each in rows["of_trainings"]]
    trained_on = pd.Series(_trained_on(rows), rows.index, dtype=object)
    checkpoint = pd.Series(rules, rows.index, dtype=object)
    kept = numbers.drop(columns="of_trainings")
    return kept.assign(trained_on=trained_on, checkpoint=checkpoint)


# How TeX writes characters that mean something to it, or that its default fonts lack or show as
# others.
IN_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00a0": "~",
    "−": "$-$",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "|": "$|$",
    "†": r"$^\dagger$",
}


def tex(text: str) -> str:
    """A text as TeX shows it.

    Signed numbers and comparisons are in math mode, because a hyphen is no minus, and ``<`` is
    another character in LaTeX's default fonts.
    """
    text = text.translate(str.maketrans(IN_TEX))
    text = re.sub(r"(?<![\w.])[+-]\d+(\.\d+)?", r"$\g<0>$", text)  # not that of JPEG 45-75
    text = re.sub(r"([<>])(?: (?=\d))?(\d*(?:\.\d+)?)", r"$\1\2$", text)
    return text.replace("–", "--")  # last, because no sign of a number is meant


def latex(table: pd.DataFrame) -> str:
    """A table of texts as a ``tabular`` of LaTeX; it needs the package booktabs."""
    table = table.set_axis([tex(str(name)) for name in table], axis=1)  # a severity is a number
    text = table.map(tex).to_latex(index=False, escape=False)
    return text.replace("\n[", "\n{[}")  # else an argument of the line break or rule before it
