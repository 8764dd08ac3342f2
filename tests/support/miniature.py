"""A miniature of three published datasets as they are downloaded, with clips of portraits.

The face detector finds these people. As in the real files, some frames have no face, one clip shows
two people, a mask video is longer than its fake, and a file is missing. The profile ``paper``, with
the published settings, is cut short for them.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import trees
import yaml
from clips import write
from conftest import CHECKOUT
from sklearn.metrics import roc_auc_score

from dfnb import papers
from dfnb.results import detectors
from facesets.casts import cast
from facesets.films import Take
from facesets.frames import dataset_record, load_frames
from facesets.manifests import manifest
from facesets.sources import preset

FACEFORENSICS = "faceforensics-c23"
DATASETS = (FACEFORENSICS, "celeb-df-v2", "dfdc-p")
# Training needs two pairs of a split.
MORE_PAIRS = (("087", "081", "train"), ("939", "115", "val"), ("012", "026", "test"))
# Of these methods ours are like them; all other fakes are swaps.
FORGED_BY = {name: f"{name}-like" for name in ("Deepfakes", "Face2Face", "NeuralTextures")}
PEOPLE_OF = "smoke-a"  # an embedded dataset: stated as people_of, every method forges every film
SWAP = "FaceSwap-like"
PEOPLE = 16  # of a studio
# Files of FaceForensics++ with a defect.
FAKES = Path("manipulated_sequences")
HALF_EMPTY = Path("original_sequences/youtube/c23/videos/974.mp4")  # without a face at the end
OF_TWO_PEOPLE = FAKES / "FaceSwap/c23/videos/953_974.mp4"  # the other face is the larger one
LONGER_MASK = FAKES / "Deepfakes/masks/videos/953_974.mp4"
MISSING = FAKES / "NeuralTextures/c23/videos/054_071.mp4"
# What published.csv has of each detector with its own backbone: the AUC by the source's name of the
# test set.
PUBLISHED = {
    "Baseline": {
        "FF++_c23": 0.9637,
        "FF-DF": 0.9799,
        "FF-F2F": 0.9785,
        "FF-FS": 0.9833,
        "FF-NT": 0.9385,
        "Celeb-DF-v2": 0.7365,
        "DFDC-P": 0.7374,
    },
    "Locate and Verify": {
        "FF++": 0.998,
        "Celeb-DF (version not stated; config default is v2)": 0.86,
        "DFDC-P": 0.835,
    },
    "Exposing the Deception": {"FF++": 0.983, "Celeb-DF-v2": 0.864, "DFDC-P": 0.851},
}


# ---------------------------------------------------------------- the downloads


class Studio:
    """Films portraits for a tree of :mod:`trees`; each number of a clip is another person.

    Args:
        number: Of the studio: another one has other people.
        side: Height of a clip in pixels, nearly twice that of a face; its width is twice the side.
        frames: Frames of a clip.
    """

    def __init__(self, number, side, frames):
        sizes = {"identities": {"test": 80}, "videos": 1, "frames": frames, "size": side}
        self.settings = preset(PEOPLE_OF, **sizes, parts=0, people_of=PEOPLE_OF)
        self.everybody, _ = cast(PEOPLE_OF, self.settings)
        self.people = self.everybody[PEOPLE * number :][:PEOPLE]
        self.films = {}  # {number: {method: (frames, masks)}}

    def film(self, number, method="real"):
        """Frames (n, S, S, 3) uint8 of a person, and masks (n, S, S) bool, or None of real ones."""
        if number not in self.films:
            person = self.people[len(self.films)]
            donor = self.everybody[person.donor]
            take = Take(PEOPLE_OF, person, donor, 0, self.settings)
            self.films[number] = {
                method: (video.frames, video.masks)
                for method, video in zip(take.names, take.videos())
            }
        return self.films[number][method]

    def clip(self, path, number, forged=False, mask=None):
        """Write a clip with a wall on its right, and the video of its masks where ``mask`` says."""
        method = "real"
        if forged:
            method = next((FORGED_BY[part] for part in path.parts if part in FORGED_BY), SWAP)
        images, masks = self.film(number, method)
        wall = np.full_like(images, images.mean())
        clip = beside(images, wall)
        if ends_with(path, OF_TWO_PEOPLE):
            clip = beside(images, nearer(self.film(number=-1)[0]))
        if ends_with(path, HALF_EMPTY):
            clip = np.concatenate([clip, beside(wall, wall)])
        write(path, clip)
        if mask:
            white = np.repeat(masks[..., None] * np.uint8(255), 3, axis=3)
            white = beside(white, 0 * white)
            write(mask, [*white, *white[-3:]] if ends_with(mask, LONGER_MASK) else white)


def beside(left, right):
    """Frames (n, S, S, 3) beside others of the same shape."""
    return np.concatenate([left, right], axis=2)


def nearer(images):
    """The middle of frames (n, S, S, 3), enlarged by a third."""
    side = images.shape[1]
    middle = slice(side // 8, side - side // 8)
    return np.stack([cv2.resize(image[middle, middle], (side, side)) for image in images])


def ends_with(path, end):
    """Whether the last parts of a path are those of another one."""
    return path.parts[-len(end.parts) :] == end.parts


def download(root, side, frames):
    """Write the tree of each dataset into the folder of its name, and return its videos.

    They are as :mod:`trees` returns them, {dataset: {video: (method, split, cluster)}}, without the
    missing one.
    """
    clips = [Studio(number, side, frames).clip for number in range(3)]
    pairs = (*trees.PAIRS, *MORE_PAIRS)
    folders = [root / name for name in DATASETS]
    videos = [
        trees.faceforensics(folders[0], pairs=pairs, clip=clips[0]),
        trees.celeb_df(folders[1], clip=clips[1]),
        trees.dfdc_p(folders[2], clip=clips[2]),
    ]
    (folders[0] / MISSING).unlink()
    del videos[0][f"NeuralTextures/{MISSING.stem}"]
    return dict(zip(DATASETS, videos))


def commands(root):
    """The words after ``dfnb`` that prepare each dataset, one frame per video of five frames."""
    for name in DATASETS:
        of_celebrities = ["--set", "frames_per_video=1"]  # in FaceForensics++ one frame of five
        options = [] if name == FACEFORENSICS else of_celebrities
        yield ["prepare", name, "--root", str(root / name), *options]


def check_prepared(videos, side):
    """What is in the files of :func:`download`, whose ``videos`` these are, is in the datasets."""
    for name in DATASETS:
        assert sorted(load_frames(name)["video"]) == sorted(videos[name])
        assert dataset_record(name)["quarantine"] == []
    table = load_frames(FACEFORENSICS)
    assert ((table["mask"] != "") == (table["label"] == 1)).all()
    (box,) = table.loc[table["video"] == f"FaceSwap/{OF_TWO_PEOPLE.stem}", "crop_box"]
    assert (box[0] + box[2]) / 2 < side  # the forged face, which is on the left
    faces = dataset_record(FACEFORENSICS)["faces"]
    without = {kind: counts["without_face"] for kind, counts in faces.items()}
    assert without == {**dict.fromkeys(faces, 0), "test/real": 1}


# ---------------------------------------------------------------- the profile


def write_profile(home, of_paper=None, **changes):
    """The profile ``paper`` of a home: the published one, its trainings and scores cut short.

    No weights are fetched. In place of its variants there is one further baseline.

    Args:
        home: The home.
        of_paper: Parameters of some papers, {paper: {name: value}}.
        **changes: Parameters of all papers.
    """
    content = yaml.safe_load((CHECKOUT / "notebooks/profiles/paper.yaml").read_text("utf-8"))
    # A further baseline, whose maps are not measured.
    small = {"backbone": "test_resnet", "pretrained": False}
    content["variants"] = {"02_xception_baseline": {"Small": small}}
    del content["claims"]  # which are about the variants
    of_paper = of_paper or {}
    for notebook, paper in papers.notebooks().items():
        changed = {
            "pretrained": False,
            "epochs": 1,
            "map_frames": 2,
            **changes,
            **of_paper.get(paper, {}),
        }
        content["notebooks"][notebook] |= changed
    # The perceptual term compares features of a network whose weights would be fetched.
    of_lae = {"representation_epochs": 1, "perceptual_weight": 0.0, "clusters": 4}
    content["notebooks"]["03_lae"] |= of_lae
    content["notebooks"]["09_robustness"] |= {"corruptions": ["JPEG"], "severities": [1, 5]}
    maps = {"frames": 2, "sanity_frames": 2, "other_maps": ["Grad-CAM", "edges", "random"]}
    content["notebooks"]["08_attribution"] |= maps
    path = home / "notebooks/profiles/paper.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def check_published(home, titles):
    """The table *published and ours* has what is published of these papers, and nothing else.

    Ours is computed again, from the scores of frames: each video has one.
    """
    text = (home / "reports/paper/tables/published.md").read_text("utf-8")
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in row] for row in rows]
    rows = [dict(zip(header, row)) for row in rows]
    published = {}
    for row in rows:
        published.setdefault(row["paper"], {})[row["tested on"]] = float(row["published"])
    assert published == {title: PUBLISHED[title] for title in titles}
    datasets = {}  # by the source's name: ours, and its method
    for name in DATASETS:
        for theirs, method in manifest(name)["published_as"].items():
            datasets[theirs] = name, method
    runs = {detector.name: detector.runs[0].id for detector in detectors("paper")}
    for row in rows:
        name, method = datasets[row["tested on"]]
        scores = pd.read_parquet(home / f"reports/paper/scores/{runs[row['paper']]}.parquet")
        scores = scores.query("test_set == @name and corruption == '' and map == ''")
        if method != "all":
            scores = scores[scores["method"].isin([method, "real"])]
        auc = roc_auc_score(scores["label"], scores["log_odds"])
        ours = row["ours"].split()[0]  # such as 0.438, before the interval
        half = 0.5 / 10 ** len(ours.partition(".")[2])
        assert float(ours) == pytest.approx(auc, abs=half + 1e-9)
