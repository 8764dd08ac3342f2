"""What a report consists of: its tables and figures by name, from score files alone.

A notebook shows them one by one, after training what is missing. ``dfnb report`` makes all of them again from
``reports/<profile>/runs``, without a model or a dataset, and gives the same bytes each time.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import norm

from dfnb import attribution, claims, core, corrupt, figures, generalise, metrics, papers
from dfnb import jobs as grid
from dfnb.metrics import interval
from dfnb.train import Run

Lines = dict[str, list[Run]]
ABOUT = (
    "Numbers of the embedded benchmark simulate the protocol of the papers (train on one dataset, test on others), "
    "not their datasets. None of them may be set beside a published figure."
)


class Book:
    """The runs of a profile and all that is made of them; ``saved`` are the files written so far.

    ``lines`` are the papers, the arms called ``baselines`` (further models from timm) and the scores of other tools. With a
    ``notebook`` it is that paper alone, which need not wait for the others.
    """

    def __init__(self, profile: str, find: grid.Find = grid.trained, notebook: str = "") -> None:
        self.profile, self.saved, self.found, self.said = profile, [], {}, {}
        self.find = lambda p: self.found.setdefault(key := repr(p), self.found.get(key) or find(p))
        trainings = grid.all_trained(profile, find=self.find, notebook=notebook)
        self.runs, self.test_sets = [trained for trained, _ in trainings], trainings[0][1].test_sets
        further = [group for arms in self.arms("/baselines").values() for name, group in arms.items() if name != "main"]
        self.lines = figures.lines([*self.runs, *chain(*further)]) | figures.other_tools(profile, self.runs)

    def arms(self, source: str) -> dict[str, Lines]:
        """Groups of arms by title: ``notebook/group``, or ``/group`` of every paper; ``""``: the lines themselves."""
        notebook, _, group = source.partition("/")
        return grid.all_arms(self.profile, group, self.find, notebook) if source else {"": self.lines}

    @cached_property
    def tasks(self) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
        """LAE's tasks by name, seen and unseen method each, and the two datasets that have them."""
        own = [job.checked() for job in grid.jobs(self.profile) if job.notebook == "03_lae" and not job.trains]
        return (own[0].tasks, own[0].task_sets or ()) if own else ({}, ())

    @cached_property
    def results(self) -> pd.DataFrame:
        """:func:`dfnb.figures.results` of all lines."""
        return figures.results(self.lines, self.test_sets)

    def table(self, name: str) -> pd.DataFrame:
        """Make a table of :data:`TABLES` and save it; without rows, as nothing was trained for it, it is not saved."""
        source, lead, make = TABLES[name]
        arms = self.arms(source)
        parts = {title: made for title, lines in arms.items() if len(made := make(self, lines))}
        if not parts:
            return pd.DataFrame()
        made = pd.concat(parts, names=["paper"]) if source.startswith("/") else next(iter(parts.values()))
        self.saved += figures.save_table(made, self.profile, name, self._caption(name, lead, arms))
        return made

    def figure(self, name: str) -> Figure | None:
        """Draw a figure of :data:`FIGURES` and save it; None where there is nothing to draw."""
        source, lead, draw = FIGURES[name]
        arms = self.arms(source)
        if figure := draw(self, next(iter(arms.values()))) if arms else None:
            self.saved += figures.save_figure(figure, self.profile, name, self._caption(name, lead, arms))
        return figure

    def _caption(self, name: str, lead: str, arms: dict[str, Lines]) -> str:
        lines = {f"{title}, {arm}": group for title, of in arms.items() for arm, group in of.items()}
        lines = next(iter(arms.values())) if len(arms) == 1 else lines
        test_sets = self.test_sets[: 1 if name in HOME else None]
        if "lae" in name.split("_"):
            test_sets = generalise.test_sets(lines, self.tasks[1])
        key = repr((sorted(lines), [run.folder.name for group in lines.values() for run in group], test_sets))
        if key not in self.said:
            self.said[key] = figures.conditions(lines, test_sets, self.profile)
        return f"{lead} {self.said[key]}"

    def page(self) -> Path:
        """Write the page with all tables and figures that there are, in reading order."""
        notebooks = [job.id for job in grid.jobs(self.profile) if not job.trains]
        order = ORDER.format(*self.test_sets).split()
        self.saved.append(figures.index(self.profile, f"dfnb report: {self.profile}", ABOUT, order, notebooks))
        return self.saved[-1]


def published(profile: str) -> grid.Find:
    """Finds a training among the runs of a report by its parameters; one that is not there has no scores either."""
    folder = figures.folder(profile) / "runs"
    runs = [Run(path, core.read_json(path / "record.json")) for path in sorted(folder.glob("[!.]*"))]
    if not runs:
        raise core.DfnbError(f"{folder} holds no runs; run the profile first: dfnb run {profile}")

    def key(parameters: dict) -> str:
        return core.digest([parameters[name] for name in ("paper", "train_set", "seed", "seen_methods", "settings")])

    known = {key(run.record["parameters"]): run for run in runs}

    def find(p: grid.TrainingParameters) -> Run:
        wanted = {"paper": papers.NOTEBOOKS[type(p).__name__], "settings": p.settings().model_dump(mode="json")}
        wanted = p.model_dump(mode="json") | wanted
        return known.get(key(wanted), Run(folder / f"{wanted['paper']}-s{p.seed}", {"parameters": wanted}))

    return find


def rebuild(profile: str) -> Path:
    """Make every table and figure of a report again from its score files, one process a core; returns the page."""
    book, workers = Book(profile, published(profile)), min(os.cpu_count() or 1, 8)
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of PyTorch
    with ProcessPoolExecutor(workers, context, _begin, (profile,)) as pool:
        # in pairs: the two tables of all metrics stand beside each other, and so share what takes longest
        list(pool.map(_remake, [*TABLES, *FIGURES], [False] * len(TABLES) + [True] * len(FIGURES), chunksize=2))
    return book.page()


def _begin(profile: str) -> None:
    """Give a worker its book, from which it then makes one table or figure after another."""
    global _book
    figures.style()
    _book = Book(profile, published(profile))


def _remake(name: str, drawn: bool) -> None:
    (_book.figure if drawn else _book.table)(name)
    plt.close("all")


def _sound(lines: Lines, test_set: str) -> Lines:
    """The lines of whose scores on a test set none is refused."""
    return {name: of for name, of in lines.items() if all(figures.held(run, test_set) is not None for run in of)}


def ranks(lines: Lines, test_sets: Sequence[str]) -> pd.DataFrame:
    """The lines of each test set by video AUC; half intervals over videos and over seeds; whether the next is as good.

    The chance to swap is that of a difference to the next line below zero were the videos drawn anew, or videos and seeds:
    normal approximation with the clustered error of the paired difference and the spread of each line's seeds.
    """
    rows = {}
    for test_set in test_sets:
        found = {name: figures.tables(group, test_set) for name, group in _sound(lines, test_set).items()}
        auc = {name: metrics.auc(tables) for name, tables in found.items()}
        over = {name: metrics.over_seeds([metrics.auc(each)["value"] for each in of]) for name, of in found.items()}
        order = sorted(auc, key=lambda name: -auc[name]["value"])
        for rank, (name, below) in enumerate(zip(order, [*order[1:], None]), 1):
            videos, seeds = ((row["high"] - row["low"]) / 2 for row in (auc[name], over[name]))
            cells = {"line": name, "video AUC": f"{auc[name]['value']:.3f}", "± over videos": f"{videos:.3f}"}
            if len(found[name]) > 1:
                cells |= {"± over seeds": f"{seeds:.3f}", "wider": "seeds" if seeds > videos else "videos"}
            if below:
                d = metrics.paired_difference(found[name], found[below])
                error = (d["high"] - d["low"]) / 2 / norm.ppf(0.975)
                both = np.sqrt(error**2 + sum(over[each]["sd"] ** 2 / over[each]["n"] for each in (name, below)))
                for what, of in (("videos", error), ("videos and seeds", both)):
                    chance = 100 * norm.sf(d["value"] / max(of, 1e-12))
                    cells[f"swaps with next, other {what} (%)"] = "–" if np.isnan(of) else f"{chance:.1f}"
            rows[test_set, rank] = cells
    return pd.DataFrame(rows).T.rename_axis(["test set", "rank"]).fillna("–")


def by_manipulation(lines: Lines, test_sets: Sequence[str]) -> pd.DataFrame:
    """Video AUC of each method of the first test set against its real videos: lines × methods, and all together."""
    rows: dict[str, dict] = {}
    for name, group in _sound(lines, test_sets[0]).items():
        found = figures.tables(group, test_sets[0])
        rows[name] = {"trained on": ", ".join(group[0].record["parameters"].get("seen_methods") or ["all"])}
        for method in [*sorted(set(found[0]["method"].astype(str)) - {"real"}), "all"]:
            own = [table[table["method"].isin(["real", method]) | (method == "all")] for table in found]
            row = metrics.auc(own)
            rows[name][method] = interval(row["value"], row["low"], row["high"])
    return pd.DataFrame(rows).T.rename_axis(f"video AUC on {test_sets[0]}")


def by_metric(book: Book, lines: Lines) -> pd.DataFrame:
    """All metrics of all lines by level and test set: means over seeds of values and of bounds."""
    groups = book.results.groupby(["level", "test_set", "line", "metric"], sort=False)
    means = groups[["value", "low", "high"]].agg(lambda column: column.mean(skipna=False))
    return means.apply(lambda row: interval(*row), axis=1).unstack("metric").fillna("–").sort_index(kind="stable")


def power(lines: Lines, test_sets: Sequence[str], difference: float = 0.01) -> pd.DataFrame:
    """How many test videos show a difference in video AUC of a line to the first one; see :func:`dfnb.metrics.power`."""
    rows, first = {}, next(iter(lines))
    for test_set in test_sets:
        found = {name: figures.tables(group, test_set) for name, group in _sound(lines, test_set).items()}
        for name in (name for name in found if name != first and first in found):
            simulated = metrics.power(found[name], found[first], difference)
            needed = np.interp(0.8, simulated, simulated.index)
            cells = {"videos now": found[name][0]["video"].nunique(), "videos for 80 % power": f"{needed:.0f}"}
            cells["simulated (videos: power in %)"] = "; ".join(f"{n}: {100 * p:.0f}" for n, p in simulated.items())
            rows[name, test_set] = cells
    return pd.DataFrame(rows).T.rename_axis(["line", "test set"]) if rows else pd.DataFrame()


Make = Callable[[Book, Lines], Any]
LAE, LV, ETD = "03_lae", "04_locate_and_verify", "05_exposing_the_deception"
WALD = "Difference in video AUC {} on the same videos, Wald interval."
SHARE = "Video AUC by the share of annotated forgeries."
MAPS = (
    "Maps against masks, {}, over forged frames: pointing game, energy inside, pixel AP and AUC, best IoU (chance: the forged "
    "share, for pixel AUC 0.5); mean P(fake) while what a map ranks first is deleted (low is good) or inserted."
)
PATCHES, AGAINST = ("located patches", *attribution.STREAMS), attribution.against_masks
MAPS_OF_ARMS = {  # which maps of which arms: what the papers claim of them
    "attribution_lae": ("03_lae/face swap", "LAE before (0 %) and after regularisation", ("attention", "Grad-CAM")),
    "attribution_modules": (f"{LV}/modules", "Locate and Verify without a module", PATCHES),
    "attribution_branches": (f"{ETD}/losses", "Exposing the Deception with and without a loss", ("union",)),
}
GROUPS = MAPS.format("by manipulations seen in training, and by decision")
AGREEMENT = "Mean rank correlation of each two maps on the same frames."
SANITY = (
    "Mean rank correlation of each map with itself after the weights were made random (a quarter, half, all of the layers), and "
    f"with that of a training on shuffled labels and of another seed; it fails from {attribution.ALIKE} on, all random or shuffled."
)
RANKS = "Ranks by video AUC; half 95 % intervals over videos and over seeds; the chance to swap with the next."
METRICS = "All metrics; of several seeds means of the values and of the bounds."


def _of(make: Callable, *more: object) -> Make:
    return lambda book, lines: make(lines, book.test_sets, *more)


def _of_lines(make: Callable, *more: object) -> Make:
    return lambda book, lines: make(lines, *more)


def _of_first_seeds(book: Book, lines: Lines) -> pd.DataFrame:
    return attribution.against_masks({name: group[:1] for name, group in lines.items()})


def _regions(book: Book, lines: Lines) -> pd.DataFrame:
    return figures.differences({name: of for name, of in lines.items() if name.startswith("0 %")}, book.test_sets)


def _located(book: Book, lines: Lines) -> pd.DataFrame:
    return figures.located(lines, book.test_sets[:1])


def _seen_unseen(measured: pd.DataFrame, lines: Lines) -> pd.DataFrame:
    return generalise.table(measured)


def _gains(measured: pd.DataFrame, lines: Lines) -> pd.DataFrame:
    return generalise.gains(measured, "0 %" if "0 %" in lines else "main")


def _generalised(task: str, make: Callable = _seen_unseen) -> Make:
    """A table or figure of :mod:`dfnb.generalise` for one of LAE's tasks; no rows where the profile has not that task."""

    def made(book: Book, lines: Lines) -> Any:
        tasks, sets = book.tasks
        sets = generalise.test_sets(lines, sets)
        for test_set in sets:
            lines = _sound(lines, test_set)
        if task not in tasks or not lines or (make is not _seen_unseen and len(lines) < 2):
            return []
        return make(generalise.measures(lines, tasks[task], sets), lines)

    return made


SEEDS = "; brackets of several seeds are t intervals over seeds."
SELECTION = f"LAE, face swap: active minus random selection{SEEDS}"
OPEN = "LAE: the open choices, each varied alone, minus main."
BUDGET = "LAE, face swap: unseen method and locality by the annotated share; bars are 95 % intervals over seeds."
AUC, DIFFERENCES, FOREST = _of(figures.cross_dataset), _of(figures.differences), _of(figures.forest)
# By name: of which arms (see Book.arms), what the caption begins with, and how it is made.
TABLES: dict[str, tuple[str, str, Make]] = {
    "cross_dataset": ("", "Video AUC.", AUC),
    "cross_dataset_frame": ("", "Frame AUC.", _of(figures.cross_dataset, "frame")),
    "differences": ("", WALD.format("of every pair"), _of(figures.differences, "video", True)),
    "ranks": ("", RANKS, _of(ranks)),
    "within_dataset": ("", "Video AUC on the home dataset, by manipulation method.", _of(by_manipulation)),
    "cross_manipulation": ("/methods", "Video AUC by the method trained on and tested on.", _of(by_manipulation)),
    "metrics": ("", METRICS, by_metric),
    "metrics_of_runs": ("", "All metrics of each run.", lambda book, lines: book.results.set_index(["line", "seed"])),
    "located": ("", "Localisation over fake frames.", _of(figures.located)),
    "selection": ("", "Video AUC by the rule that chose the epoch.", _of(figures.selection)),
    "power": ("", "Test videos that show a difference of 0.01 in video AUC to the baseline, simulated.", _of(power)),
    "robustness": ("", corrupt.AREAS, lambda book, lines: corrupt.areas(book)),
    "attribution": ("", MAPS.format("by map and test set, first seeds"), _of_first_seeds),
    "attribution_groups": ("", GROUPS, _of_lines(attribution.by_group)),
    "attribution_sanity": ("", SANITY, _of_lines(attribution.sane)),
    "attribution_agreement": ("", AGREEMENT, _of_lines(attribution.agreement)),
    **{name: (of, MAPS.format(lead), _of_lines(AGAINST, maps)) for name, (of, lead, maps) in MAPS_OF_ARMS.items()},
    "quirks": ("/quirks", "Video AUC with a switch turned, minus without.", DIFFERENCES),
    **{
        f"lae_{task.replace(' ', '_')}{end}": (of.format(task), f"LAE, {task}{lead}{SEEDS}", _generalised(task, make))
        for task in ("face swap", "inpainting", "attribute")
        for end, of, lead, make in (
            ("", "/{}", ": seen and unseen method, frames, balanced accuracy", _seen_unseen),
            ("_gains", "03_lae/{}", ": minus the autoencoder without the locality loss, paired by seed", _gains),
            ("_plain", "03_lae/plain {}", " without any cue: seen and unseen method", _seen_unseen),
            ("_plain_gains", "03_lae/plain {}", " without any cue: minus the autoencoder without the loss", _gains),
        )
    },
    "lae_selection": (f"{LAE}/face swap", SELECTION, _generalised("face swap", generalise.selections)),
    "lae_open_choices": (f"{LAE}/open choices", OPEN, _generalised("face swap", _gains)),
    "lv_annotation": (f"{LV}/annotation", SHARE, AUC),
    "lv_annotation_differences": (f"{LV}/annotation", f"Difference to full annotation. {SHARE}", DIFFERENCES),
    "lv_annotation_located": (f"{LV}/annotation", "Localisation by the share of annotated forgeries.", _located),
    "lv_regions": (f"{LV}/annotation", "SSPSL without masks, another reference region minus the mouth.", _regions),
    "lv_modules": (f"{LV}/modules", "Locate and Verify without a module, minus the whole.", DIFFERENCES),
    "lv_modules_located": (f"{LV}/modules", "Localisation without a module.", _located),
    "etd_losses": (f"{ETD}/losses", "Ablation of the losses, video AUC.", AUC),
    "etd_differences": (f"{ETD}/losses", WALD.format("to CE + LIL + GIL"), DIFFERENCES),
    "etd_number_of_branches": (f"{ETD}/branches", "Number of branches, video AUC; main has the profile's.", AUC),
    "overview": ("", "The runs.", lambda book, lines: figures.overview(book.runs, book.test_sets[0])),
    "published_and_ours": ("", claims.BESIDE, _of(claims.published_and_ours)),
    "claims": ("", claims.JUDGED, lambda book, lines: claims.judged(book)),
}
HOME = {"within_dataset", "cross_manipulation", "lv_annotation_located", "lv_modules_located"}  # of one test set
FIGURES: dict[str, tuple[str, str, Make]] = {
    "cross_dataset": ("", "Video AUC.", FOREST),
    "roc": ("", "ROC over videos.", _of(figures.roc)),
    "etd_losses": (f"{ETD}/losses", "Ablation of the losses, video AUC.", FOREST),
    "lae_budget": ("03_lae/face swap", BUDGET, _generalised("face swap", generalise.budget_curve)),
    "attribution_curves": ("", "Deletion and insertion, first test set.", _of_lines(attribution.curves)),
    "robustness": ("", corrupt.CURVES, lambda book, lines: corrupt.curves(book)),
}
ORDER = """
    cross_dataset claims published_and_ours differences ranks selection within_dataset cross_manipulation metrics located
    robustness power quirks lae_face_swap lae_face_swap_gains lae_inpainting lae_inpainting_gains lae_attribute lae_attribute_gains
    lae_budget lae_selection lae_attention_face_swap_seen lae_attention_face_swap_unseen lae_attention_inpainting_seen
    lae_attention_inpainting_unseen lae_attention_attribute_seen lae_attention_attribute_unseen lae_face_swap_plain
    lae_face_swap_plain_gains lae_inpainting_plain lae_inpainting_plain_gains lae_attribute_plain lae_attribute_plain_gains
    lae_open_choices lv_annotation lv_annotation_differences lv_annotation_located lv_regions lv_pseudo_by_epoch
    lv_pseudo_labels lv_modules lv_modules_located etd_losses etd_differences etd_branches_alike etd_branches_with_lil
    etd_branches_without_lil etd_number_of_branches located_on_{0} located_on_{1} grad_cam roc samples_{0} shortcuts audit
    attribution attribution_groups attribution_sanity attribution_agreement attribution_curves attribution_lae
    attribution_modules attribution_branches overview published"""
