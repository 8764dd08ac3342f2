"""Miniature trees of drawn faces, true to the official layouts in names, lists and masks."""

import json
from functools import cache, partial

import cv2
import numpy as np
from clips import write
from PIL import Image

SIZE = 160
FRAMES = 6
FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


class Centre:
    """Finds one face in the middle of every image: for trials without a network."""

    sha256 = "1" * 64

    def __call__(self, image):
        height, width = image.shape[:2]
        face = [0.25, 0.2, 0.5, 0.6, 0.35, 0.4, 0.65, 0.4, 0.5, 0.55, 0.38, 0.7, 0.62, 0.7]
        return np.array([[*face * np.tile([width, height], 7), 0.9]])


@cache
def faces(number, forged=False):
    """Frames (n, H, W, 3) uint8 of a drawn face, whose mouth may be forged, and masks (n, H, W)."""
    coarse = np.random.default_rng(number).integers(60, 180, (12, 12, 3), np.uint8)
    wall = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    images = np.repeat(wall[None], FRAMES, axis=0)
    masks = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    for i in range(FRAMES):
        cv2.ellipse(images[i], (80 + i, 80), (36, 46), 0, 0, 360, (205, 160, 130), -1)
        if forged:
            cv2.ellipse(masks[i], (80 + i, 104), (24, 14), 0, 0, 360, 1, -1)
    images[masks > 0] = (120, 40, 60)
    return images, masks > 0


def real(path, number):
    return write(path, faces(number)[0])


def fake(path, number, mask=None):
    images, masks = faces(number, forged=True)
    if mask:
        write(mask, np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))
    return write(path, images)


def image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# Each writes a tree and returns the videos in it: {name: (label, method, split, cluster)}.


def faceforensics(root, compression="c23", methods=FOUR):
    videos = {}
    for a, b, split in (("071", "054", "train"), ("720", "672", "val"), ("953", "974", "test")):
        for one, other in ((a, b), (b, a)):
            real(root / f"original_sequences/youtube/{compression}/videos/{one}.mp4", int(one))
            videos[f"real/{one}"] = 0, "real", split, f"{a}_{b}"
            for method in methods:
                below = root / "manipulated_sequences" / method
                name = f"{one}_{other}.mp4"
                mask = None if method == "FaceShifter" else below / "masks/videos" / name
                fake(below / compression / "videos" / name, int(one), mask)
                videos[f"{method}/{one}_{other}"] = 1, method, split, f"{a}_{b}"
    return videos


def dfd(root):
    below = root / "manipulated_sequences/DeepFakeDetection"
    name = "01_02__exit_phone_room__YVGY8LOK"
    real(root / "original_sequences/actors/c23/videos/01__exit_phone_room.mp4", 1)
    fake(below / f"c23/videos/{name}.mp4", 1, below / f"masks/videos/{name}.mp4")
    return {
        "real/01__exit_phone_room": (0, "real", "test", "01"),
        f"DeepFakeDetection/{name}": (1, "DeepFakeDetection", "test", "01"),
    }


def celeb_df(root, version=2):
    new = "test" if version == 2 else "train"
    held_out = "val" if version == 2 else "train"  # our validation split of v2
    videos = {
        "Celeb-real/id0_0001": (0, "real", new, "id0"),
        "Celeb-real/id1_0007": (0, "real", "test", "id1"),
        "YouTube-real/00170": (0, "real", "test", "YouTube-real/00170"),
        "Celeb-synthesis/id0_id1_0001": (1, "Celeb-synthesis", new, "id0"),
        "Celeb-synthesis/id1_id0_0007": (1, "Celeb-synthesis", "test", "id1"),
        "Celeb-real/id19_0003": (0, "real", held_out, "id19"),
        "Celeb-synthesis/id19_id0_0003": (1, "Celeb-synthesis", held_out, "id19"),
        "YouTube-real/00009": (0, "real", held_out, "YouTube-real/00009"),
    }
    for name, (label, _, _, cluster) in videos.items():
        (fake if label else real)(root / f"{name}.mp4", int(cluster == "id1"))
    return videos


def dfdc_p(root):
    videos = {
        "original_videos/643049/643049_A_001": (0, "real", "train", "643049"),
        "original_videos/1260311/1260311_C_002": (0, "real", "test", "1260311"),
        "method_A/643049/643049_A/1260311_643049_A_001": (1, "method_A", "train", "643049"),
        "method_B/1260311/1260311_C/1255229_1260311_C_001": (1, "method_B", "test", "1260311"),
    }
    about = {}
    for name, (label, _, split, _) in videos.items():
        (fake if label else real)(root / f"{name}.mp4", label)
        about[f"{name}.mp4"] = {"label": ("real", "fake")[label], "set": split, "augmentations": []}
    (root / "dataset.json").write_text(json.dumps(about))
    return videos


def dfdc(root):
    real(root / "test/aalscayrfi.mp4", 0)
    fake(root / "test/aayrffkzxn.mp4", 1)
    (root / "test/labels.csv").write_text("filename,label\naalscayrfi.mp4,0\naayrffkzxn.mp4,1\n")
    real(root / "dfdc_train_part_0/owxbbpjpch.mp4", 2)
    about = {"owxbbpjpch.mp4": {"label": "REAL", "split": "train"}}
    (root / "dfdc_train_part_0/metadata.json").write_text(json.dumps(about))
    return {
        "test/aalscayrfi": (0, "real", "test", "test/aalscayrfi"),
        "test/aayrffkzxn": (1, "DFDC", "test", "test/aayrffkzxn"),
        "train_0/owxbbpjpch": (0, "real", "train", "train_0"),
    }


def deeperforensics(root):
    videos = {}
    (root / "lists/splits").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        name = f"00{number}_W101"
        real(root / f"original_sequences/youtube/c23/videos/00{number}.mp4", number)
        fake(root / f"manipulated_videos/end_to_end/{name}.mp4", number)
        (root / f"lists/splits/{split}.txt").write_text(f"{name}.mp4\n")
        videos[f"real/00{number}"] = 0, "real", split, f"00{number}"
        videos[f"DF-VAE/{name}"] = 1, "DF-VAE", split, "W101"
    return videos


def uadfv(root):
    real(root / "real/0047.mp4", 4)
    fake(root / "fake/0047_fake.mp4", 4)
    return {
        "real/0047": (0, "real", "test", "0047"),
        "FakeApp/0047_fake": (1, "FakeApp", "test", "0047"),
    }


def wilddeepfake(root):
    videos = {}
    for label, method in (("real", "real"), ("fake", "WildDeepfake")):
        for split in ("train", "test"):
            archive = f"{label}_{split}/0"
            for frame in range(3):
                below = f"{archive}/{label}/104/{9 + frame}.png"
                image(root / below, faces(len(archive))[0][frame])
            videos[f"{archive}/104"] = int(label == "fake"), method, split, archive
    return videos


def celeb_df_plus_plus(root):
    videos = {
        "Celeb-real/id0_0001": (0, "real", "test", "id0"),
        "YouTube-real/00001": (0, "real", "train", "YouTube-real/00001"),
    }
    for family, method, split in (("FaceSwap", "GHOST", "test"), ("TalkingFace", "FLOAT", "train")):
        name = f"{family}/{method}/id0_id1_0001"
        videos[name] = 1, method, split, name
    for name, (label, *_) in videos.items():
        below = "Celeb-synthesis/" if label else ""
        (fake if label else real)(root / f"{below}{name}.mp4", label)
    listed = "1 Celeb-real/id0_0001.mp4\n0 Celeb-synthesis/FaceSwap/GHOST/id0_id1_0001.mp4\n"
    (root / "List_of_testing_videos.txt").write_text(listed)
    return videos


def df40(root):
    videos = {}
    for frame in range(2):
        image(root / f"real/ff/frames/071/{frame}.png", faces(1)[0][frame])
        image(root / f"simswap/ff/frames/071_054/{frame}.png", faces(1, forged=True)[0][frame])
    videos["real/ff/071"] = 0, "real", "test", "ff/071"
    videos["simswap/ff/071_054"] = 1, "simswap", "test", "ff/071"
    return videos


def lae_images(root, fakes=""):
    videos = {}
    for number, split in enumerate(("train", "val", "test")):
        image(root / split / "real/a b é.png", faces(number)[0][0])
        videos[f"{split}/real/a b é"] = 0, "real", split, f"{split}/{fakes and 'real/'}a b é"
        for method in ("seen", "unseen"):
            images, masks = faces(number, forged=True)
            image(root / split / "fake" / method / "a b é.png", images[0])
            image(root / split / "mask" / method / "a b é.png", masks[0] * np.uint8(255))
            name = f"{split}/{fakes}{method}/a b é"
            videos[name] = 1, method, split, name if fakes else f"{split}/a b é"
    return videos


TREES = {
    "faceshifter": partial(faceforensics, methods=("FaceShifter",)),
    "faceforensics-raw": partial(faceforensics, compression="raw"),
    "faceforensics-c23": faceforensics,
    "faceforensics-c40": partial(faceforensics, compression="c40"),
    "dfd": dfd,
    "celeb-df-v1": partial(celeb_df, version=1),
    "celeb-df-v2": celeb_df,
    "dfdc-p": dfdc_p,
    "dfdc": dfdc,
    "deeperforensics": deeperforensics,
    "uadfv": uadfv,
    "wilddeepfake": wilddeepfake,
    "celeb-df-plus-plus": celeb_df_plus_plus,
    "df40": df40,
    "lae-face": partial(faceforensics, methods=("Face2Face", "FaceSwap")),
    "lae-inpainting": lae_images,
    "lae-attribute": lae_images,
    "face-crops": partial(lae_images, fakes="fake/"),
}


def deepfakebench(root):
    """A tree of DeepfakeBench: its JSON, the folder of its images, and {video: (label, split)}."""
    rgb = root / "rgb"
    kinds = {"FF-real": {}, "FF-DF": {}}
    videos = {}
    for name, split in {
        "071": "train",
        "953": "test",
        "071_054": "train",
        "953_974": "test",
    }.items():
        kind = "FF-DF" if "_" in name else "FF-real"
        images, masks = faces(int(name[:3]), forged=kind == "FF-DF")
        entry = {"label": kind, "frames": [], "masks": []}
        for n in (3, 10, 0):  # os.scandir gives no order
            below = f"FaceForensics++/{kind}/c23/frames/{name}/{n:03d}.png"
            image(rgb / below, images[n % FRAMES])
            entry["frames"].append(below.replace("/", "\\"))  # as its published files have them
            if kind == "FF-DF":
                below = below.replace("frames", "masks")
                image(rgb / below, masks[n % FRAMES] * np.uint8(255))
                entry["masks"].append(below)
        kinds[kind].setdefault(split, {"c23": {}})["c23"][name] = entry
        videos[f"{kind}/{name}"] = int(kind == "FF-DF"), split
    file = root / "FF-DF.json"
    file.write_text(json.dumps({"FF-DF": kinds}))
    return file, rgb, videos
