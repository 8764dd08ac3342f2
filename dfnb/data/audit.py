"""What would make a result on a dataset worthless: leaks between splits, and shortcuts that give the label away."""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import radius_neighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfnb import core
from dfnb.data.frames import Pixels, dataset_folder, kept_beside

VERSION = 1  # raise it when the same frames give other findings
BORDER = 4  # pixels at each edge of the crop
MOST = 4000  # frames that the probes look at, evenly spaced over the table
HASHED = 3  # frames of a video that are compared with those of other splits and datasets
WAVES = 16  # a hash has 16² - 1 bits
NEAR = 24  # bits in which two frames of one scene may differ
GIVEN_AWAY = 0.55  # AUC: a shortcut when the whole interval is above, or for a single value below 1 - GIVEN_AWAY
CLEAR = 0.65  # no shortcut in sight when the whole interval lies between 1 - CLEAR and CLEAR
QUALITIES = (50, 75, 95)  # of JPEG, whose file sizes tell how much detail there is
FOLDS = 10  # of clusters
TOO_FEW = "too few videos to tell"


def audit(frames: pd.DataFrame) -> pd.Series:
    """Checks of a frames table: counts that must all be zero, then the share of fake frames by split.

    People count as shared when they appear in two splits as target or as donor.
    """
    text = frames[["split", "video", "identity", "source", "cluster"]].astype(str).drop_duplicates()
    people = text.melt("split", ["identity", "source"], value_name="person").query("person != ''")
    fakes = frames["label"] == 1
    findings = {
        "people in more than one split": _shared(people, "person"),
        "clusters in more than one split": _shared(text, "cluster"),
        "videos in more than one split": _shared(text, "video"),
        "videos that look like one of another split": duplicates(frames)["video"].nunique(),
        "frames listed twice": int(frames.duplicated(["video", "track", "frame"]).sum()),
        "videos with both labels": int((frames.groupby("video", observed=True)["label"].nunique() > 1).sum()),
        "fake frames without a mask": int((frames["mask"].astype(str)[fakes] == "").sum()),
    }
    shares = fakes.groupby(frames["split"].astype(str)).mean().map("{:.2f}".format).add_prefix("share of fake frames, ")
    return pd.concat([pd.Series(findings, dtype=object), shares]).rename("found").rename_axis("check")


def _shared(table: pd.DataFrame, column: str) -> int:
    return int((table.groupby(column)["split"].nunique() > 1).sum())


def between(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, int | str]:
    """What the test split of one dataset shares with the training and validation splits of another: people and videos.

    People count as shared when they have the same name in both, as target or as donor. Most datasets number their people
    for themselves: "000" of one has nothing to do with "000" of another. So names are compared only where both records say
    which numbering of ``people`` they follow (the manifest says it) and say the same; elsewhere the count is "–", and only
    the videos of the test split that look like one of the other dataset (:func:`duplicates`) count.
    """
    parts = train[train["split"] != "test"], test[test["split"] == "test"]
    numbering, other = (part.attrs["record"].get("people") for part in parts)
    first, second = ({*part["identity"].unique(), *part["source"].unique()} - {""} for part in parts)
    people = len(first & second) if numbering and numbering == other else "–"
    return {"people of the same name": people, "videos that look alike": duplicates(*parts)["other"].nunique()}


def duplicates(*tables: pd.DataFrame) -> pd.DataFrame:
    """Pairs of videos that show nearly the same: ``video, split, other, other_split, distance``.

    Of one frames table the pairs in different splits; of several the pairs in different tables. A frame's hash is the sign,
    about their median, of the lowest 16 by 16 cosine waves of its brightness, after Zauner (Implementation and Benchmarking
    of Perceptual Image Hash Functions, 2010), which has 8 by 8. ``distance`` is the smallest number of bits in which any of
    a few frames of the two differ. A mirrored or strongly shifted copy is not found.
    """
    few = pd.concat([_kept(_hashes, table).assign(table=n) for n, table in enumerate(tables)], ignore_index=True)
    video, split, part = (few[name].to_numpy() for name in ("video", "split", "table" if len(tables) > 1 else "split"))
    bits = np.stack(few["bits"]).astype(np.float32)
    near = radius_neighbors_graph(bits, np.sqrt(NEAR + 0.5), mode="distance").tocoo()  # its square counts bits
    i, j, distance = (values[part[near.row] < part[near.col]] for values in (near.row, near.col, near.data**2))
    pairs = {"video": video[i], "split": split[i], "other": video[j], "other_split": split[j]}
    return pd.DataFrame(pairs | {"distance": distance.round().astype(int)}).groupby(list(pairs), as_index=False).min()


def _kept(make: Callable[[pd.DataFrame], pd.DataFrame], frames: pd.DataFrame) -> pd.DataFrame:
    """The table that ``make`` makes of these frames, made once and kept in the folder of their dataset."""
    rows = frames[["split", "video", "track", "frame", "cluster", "label", "path", "row"]].astype(str)
    rows = core.digest(pd.util.hash_pandas_object(rows, index=False).tolist())
    facts = {"version": VERSION, "data": frames.attrs["fingerprint"], "rows": rows}
    name = f"audit-{core.slug(make.__name__)}-{core.digest(facts)}.parquet"
    return kept_beside(dataset_folder(frames.attrs["folder"]) / name, facts, lambda: make(frames))


def _hashes(frames: pd.DataFrame) -> pd.DataFrame:
    """A few frames of each video, evenly spaced: ``video, split, bits``."""
    tracks = frames.groupby(["video", "track"], observed=True)["row"]
    place, step = tracks.cumcount(), (tracks.transform("size") // HASHED).clip(lower=1)
    few = frames[(place % step == 0) & (place // step < HASHED)]
    crops = map(Pixels(frames.attrs["folder"]).crop, few["path"], few["row"])
    return few[["video", "split"]].astype(str).assign(bits=list(map(_bits, crops)))


def _bits(crop: np.ndarray) -> np.ndarray:
    """The hash of a crop (H, W, 3): (255,) bool."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(grey.astype(np.float32))[:WAVES, :WAVES].ravel()[1:]
    return waves > np.median(waves)


def features(frames: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a shortcut could hang on, per frame: border pixels (n, d), mean and deviation of the colours (n, 6), place and
    size (n, 6: height and width of the crop, its borders in source pixels, 0 where unknown), sizes as JPEG (n, 3), and single
    values (n, 1)."""
    pixels, rows, common = Pixels(frames.attrs["folder"]), [], None
    for path, row, box in zip(frames["path"], frames["row"], frames["crop_box"]):
        crop = pixels.crop(path, row)
        place = [*crop.shape[:2], *([0] * 4 if box is None or box is pd.NA else box)]
        common = common or crop.shape[1::-1]  # images used in place may differ in size
        crop = cv2.resize(crop, common, interpolation=cv2.INTER_AREA)
        rim = np.pad(np.zeros(np.subtract(crop.shape[:2], 2 * BORDER), bool), BORDER, constant_values=True)
        sizes = [len(cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, q])[1]) for q in QUALITIES]
        rows.append((crop[rim][::3].ravel(), [*crop.mean((0, 1)), *crop.std((0, 1))], place, sizes))
    border, colour, place, sizes = (np.array(values, np.float32) for values in zip(*rows))
    several = {"border pixels": border, "colour statistics": colour, "place and size": place, "three file sizes": sizes}
    single = {"brightness": colour[:, :3].mean(1, keepdims=True), "contrast": colour[:, 3:].mean(1, keepdims=True)}
    single |= {"compressed size": sizes[:, [1]], "face scale, source pixels": place[:, [4]] - place[:, [2]]}
    named = {f"a linear classifier on {name}": values for name, values in several.items()}
    return named | {f"{name} alone": values for name, values in single.items()}


def shortcuts(frames: pd.DataFrame) -> pd.DataFrame:
    """What tells the label without looking at the face: frame AUC with its 95 % interval, and a verdict.

    Of the :func:`features`, a logistic regression on those with several columns, fitted to the clusters of the other
    folds; single values alone, with their medians among real and fake frames. The AUC is the mean over :data:`FOLDS` folds
    of clusters, with a t interval over them. The label is ``given away`` where the interval excludes chance clearly
    (:data:`GIVEN_AWAY`; a single value may also be lower on fakes), ``slight`` where it excludes chance otherwise, and
    ``nothing in sight`` where it is narrow (:data:`CLEAR`) and holds chance; else, and with fewer than two clusters of a
    class per fold, there are too few videos.
    """
    return _kept(_probes, frames).set_index("the label by").astype(object).fillna("–")


def _probes(frames: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`shortcuts` as it is kept, with nothing where that has a dash."""
    seen = frames.iloc[:: max(1, len(frames) // MOST)].reset_index(drop=True)
    label, cluster = seen["label"].to_numpy().astype(int), seen["cluster"].astype(str).to_numpy()
    folds, rows = [], {}
    if min(len(set(cluster[label == i])) for i in (0, 1)) >= 2 * FOLDS:
        folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(label, label, cluster))
    for name, values in features(seen).items():
        rows[name] = _judged(values, label, folds)
        if values.shape[1] == 1:
            medians = pd.Series(values[:, 0]).groupby(label).median().round(1)
            rows[name] |= medians.rename({0: "median of real", 1: "median of fake"}).to_dict()
    columns = {"n frames": len(seen), "clusters": len(set(cluster))}
    return pd.DataFrame(rows).T.infer_objects().assign(**columns).rename_axis("the label by").reset_index()


def _judged(values: np.ndarray, label: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, str]:
    """AUC of values (n, d) over the folds (rows to fit, rows to score), with its interval, and the verdict."""
    if not folds:
        return {"frame AUC": "–", "verdict": TOO_FEW}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    single, areas = values.shape[1] == 1, []
    for rest, fold in folds:
        score = values[fold] if single else model.fit(values[rest], label[rest]).decision_function(values[fold])
        areas.append(roc_auc_score(label[fold], score))
    auc, half = np.mean(areas), t.ppf(0.975, FOLDS - 1) * np.std(areas, ddof=1) / np.sqrt(FOLDS)
    low, high = max(auc - half, 0), min(auc + half, 1)
    rules = {"given away": low > GIVEN_AWAY or (single and high < 1 - GIVEN_AWAY)}
    rules |= {"nothing in sight": 1 - CLEAR < low <= 0.5 <= high < CLEAR, "slight": low > 0.5 or high < 0.5}
    verdict = next((name for name, holds in rules.items() if holds), TOO_FEW)
    return {"frame AUC": f"{auc:.3f} [{low:.3f}, {high:.3f}]", "verdict": verdict}
