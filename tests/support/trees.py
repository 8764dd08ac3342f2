"""Miniature trees of drawn faces, true to the official layouts in names, lists and masks."""

import json
from functools import cache, partial

import cv2
import numpy as np
from clips import write
from PIL import Image

from facesets.faces import Detection

SIZE = 160
FRAMES = 6
PAIRS = (("071", "054", "train"), ("720", "672", "val"), ("953", "974", "test"))
FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


class Centre:
    """Finds one face in the middle of every image: for trials without a network."""

    sha256 = "1" * 64

    def __call__(self, image):
        height, width = image.shape[:2]
        points = [(0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.38, 0.7), (0.62, 0.7)]
        landmarks = np.multiply(points, [width, height])
        box = (0.25 * width, 0.2 * height, 0.5 * width, 0.6 * height)
        return [Detection(*box, landmarks, 0.9)]


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


def clip(path, number, forged=False, mask=None):
    """Write a video of a drawn face, and where ``mask`` is a path, the video of its masks."""
    images, masks = faces(number, forged)
    if mask:
        write(mask, np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))
    return write(path, images)


def clips(root, videos, clip=clip):
    """Write the clips of a tree whose files are named as its videos."""
    clusters = [*dict.fromkeys(cluster for _, _, cluster in videos.values())]
    for name, (method, _, cluster) in videos.items():
        clip(root / f"{name}.mp4", clusters.index(cluster), method != "real")
    return videos


def image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# Each writes a tree and returns the videos in it: {name: (method, split, cluster)}. ``clip`` may
# draw other people.


def faceforensics(root, compression="c23", methods=FOUR, pairs=PAIRS, clip=clip):
    videos = {}
    for a, b, split in pairs:
        for one, other in ((a, b), (b, a)):
            clip(root / f"original_sequences/youtube/{compression}/videos/{one}.mp4", int(one))
            videos[f"real/{one}"] = "real", split, f"{a}_{b}"
            for method in methods:
                below = root / "manipulated_sequences" / method
                name = f"{one}_{other}.mp4"
                mask = None if method == "FaceShifter" else below / "masks/videos" / name
                clip(below / compression / "videos" / name, int(one), True, mask)
                videos[f"{method}/{one}_{other}"] = method, split, f"{a}_{b}"
    return videos


def dfd(root):
    below = root / "manipulated_sequences/DeepFakeDetection"
    name = "01_02__exit_phone_room__YVGY8LOK"
    clip(root / "original_sequences/actors/c23/videos/01__exit_phone_room.mp4", 1)
    clip(below / f"c23/videos/{name}.mp4", 1, True, below / f"masks/videos/{name}.mp4")
    return {
        "real/01__exit_phone_room": ("real", "test", "01"),
        f"DeepFakeDetection/{name}": ("DeepFakeDetection", "test", "01"),
    }


def celeb_df(root, version=2, clip=clip):
    new = "test" if version == 2 else "train"
    held_out = "val" if version == 2 else "train"  # our validation split of v2
    videos = {
        "Celeb-real/id0_0001": ("real", new, "id0"),
        "Celeb-real/id1_0007": ("real", "test", "id1"),
        "YouTube-real/00170": ("real", "test", "YouTube-real/00170"),
        "Celeb-synthesis/id0_id1_0001": ("Celeb-synthesis", new, "id0"),
        "Celeb-synthesis/id1_id0_0007": ("Celeb-synthesis", "test", "id1"),
        "Celeb-real/id19_0003": ("real", held_out, "id19"),
        "Celeb-synthesis/id19_id0_0003": ("Celeb-synthesis", held_out, "id19"),
        "YouTube-real/00009": ("real", held_out, "YouTube-real/00009"),
    }
    return clips(root, videos, clip)


def dfdc_p(root, clip=clip):
    videos = {
        "original_videos/643049/643049_A_001": ("real", "train", "643049"),
        "original_videos/1260311/1260311_C_002": ("real", "test", "1260311"),
        "original_videos/1255229/1255229_B_001": ("real", "test", "1255229"),
        "method_A/643049/643049_A/1260311_643049_A_001": ("method_A", "train", "643049"),
        "method_B/1260311/1260311_C/1255229_1260311_C_001": ("method_B", "test", "1260311"),
        "method_A/1255229/1255229_B/1260311_1255229_B_001": ("method_A", "test", "1255229"),
    }
    about = {}
    for name, (method, split, _) in videos.items():
        label = "real" if method == "real" else "fake"
        about[f"{name}.mp4"] = {"label": label, "set": split, "augmentations": []}
    clips(root, videos, clip)
    (root / "dataset.json").write_text(json.dumps(about))
    return videos


def dfdc(root):
    clip(root / "test/aalscayrfi.mp4", 0)
    clip(root / "test/aayrffkzxn.mp4", 1, forged=True)
    (root / "test/labels.csv").write_text("filename,label\naalscayrfi.mp4,0\naayrffkzxn.mp4,1\n")
    clip(root / "dfdc_train_part_0/owxbbpjpch.mp4", 2)
    about = {"owxbbpjpch.mp4": {"label": "REAL", "split": "train"}}
    (root / "dfdc_train_part_0/metadata.json").write_text(json.dumps(about))
    clip(root / "train_sample_videos/aagfhgtpmv.mp4", 3, forged=True)  # Kaggle's sample
    about = {"aagfhgtpmv.mp4": {"label": "FAKE", "split": "train", "original": "vudstovrck.mp4"}}
    (root / "train_sample_videos/metadata.json").write_text(json.dumps(about))
    return {
        "train_sample/aagfhgtpmv": ("DFDC", "train", "train_sample/aagfhgtpmv"),
        "test/aalscayrfi": ("real", "test", "test/aalscayrfi"),
        "test/aayrffkzxn": ("DFDC", "test", "test/aayrffkzxn"),
        "train_0/owxbbpjpch": ("real", "train", "train_0"),
    }


def deeperforensics(root):
    videos = {}
    (root / "lists/splits").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        name = f"00{number}_W101"
        clip(root / f"original_sequences/youtube/c23/videos/00{number}.mp4", number)
        clip(root / f"manipulated_videos/end_to_end/{name}.mp4", number, forged=True)
        (root / f"lists/splits/{split}.txt").write_text(f"{name}.mp4\n")
        videos[f"real/00{number}"] = "real", split, f"00{number}"
        videos[f"DF-VAE/{name}"] = "DF-VAE", split, "W101"
    return videos


def uadfv(root):
    clip(root / "real/0047.mp4", 4)
    clip(root / "fake/0047_fake.mp4", 4, forged=True)
    return {"real/0047": ("real", "test", "0047"), "FakeApp/0047_fake": ("FakeApp", "test", "0047")}


def wilddeepfake(root):
    videos = {}
    for label, method in (("real", "real"), ("fake", "WildDeepfake")):
        for split in ("train", "test"):
            archive = f"{label}_{split}/0"
            for frame in range(3):
                below = f"{archive}/{label}/104/{9 + frame}.png"
                image(root / below, faces(len(archive))[0][frame])
            videos[f"{archive}/104"] = method, split, archive
    return videos


def hidf(root, tail="-vid"):
    videos = {}
    for number, (clip_id, split) in enumerate(
        (("c00012", "train"), ("f0126", "val"), ("c9", "test"))
    ):
        clip(root / f"Real{tail}/{clip_id}.mp4", number)
        clip(root / f"Fake{tail}/{clip_id}_c11501.mp4", number, forged=True)
        videos[f"real/{clip_id}"] = "real", split, clip_id
        videos[f"HiDF/{clip_id}_c11501"] = "HiDF", split, clip_id
    return videos


def hidf_folds(root, splits):
    """Clips of three folds; ``splits`` are theirs in the dataset. The two of 138 share a scene."""
    videos = {}
    clips = (("c00023", "c00023", 0), ("c00138", "c00138", 1), ("c00144", "c00138", 1))
    for number, (clip_id, cluster, fold) in enumerate((*clips, ("c00041", "c00038", 2))):
        clip(root / f"Real/{clip_id}.mp4", number)
        clip(root / f"Fake/{clip_id}_c01066.mp4", number, forged=True)
        videos[f"real/{clip_id}"] = "real", splits[fold], cluster
        videos[f"HiDF/{clip_id}_c01066"] = "HiDF", splits[fold], cluster
    return videos


def rtfs(root):
    videos = {}
    for number, (first, split) in enumerate((("A", "train"), ("o", "val"), ("_", "test"))):
        person = f"{first}b_d-1_2345"
        clip(root / f"original_videos/{person}_10_20.mp4", number)
        videos[f"real/{person}_10_20"] = "real", split, person
        for folder, method in (("inswapper", "InSwapper"), ("uniface", "UniFace")):
            name = f"{folder}_{person}_10_20_7-12_female"
            clip(root / f"{folder}/{name}.mp4", number, forged=True)
            videos[f"{method}/{name}"] = method, split, person
    return videos


def inp_x(root):
    videos = {}
    for number, split in ((10, "train"), (19, "val"), (7, "test")):
        folder = "test" if split == "test" else "train"
        below = root / f"{folder}-data"
        image(below / f"data/originals/CelebAHQ/{number}.jpg", faces(number)[0][0])
        images, masks = faces(number, forged=True)
        mask = masks[0] * np.uint8(255)
        image(below / f"masks/CelebAHQ_masks/{number}_u_lip.jpg", mask)
        videos[f"{folder}/real/{number}"] = "real", split, str(number)
        for method in ("Kandinsky_2_2", "OpenJourney"):
            name = f"{number}_u_lip_CelebAHQ_{method}_simple"
            image(below / f"data/inpainting_exchange/CelebAHQ/{name}.jpg", images[0])
            videos[f"{folder}/{method}/{name}"] = method, split, str(number)
    return videos


def semi_truths(root):
    images, masks = faces(3, forged=True)
    image(root / "original/images/CelebAHQ/3.jpg", faces(3)[0][0])
    image(root / "original/masks/CelebAHQ/3_hair.jpg", masks[0] * np.uint8(255))
    image(root / "inpainting/CelebAHQ/3_hair_CelebAHQ_StableDiffusion_v5.png", images[0])
    fake = "StableDiffusion_v5/3_hair_CelebAHQ_StableDiffusion_v5"
    return {"real/3": ("real", "test", "3"), fake: ("StableDiffusion_v5", "test", "3")}


def deepfakeface(root):
    videos = {}
    for folder in ("wiki", "inpainting", "insight", "text2img"):
        image(root / folder / "07/1234_1950-01-01_2010.jpg", faces(4)[0][0])
        method = "real" if folder == "wiki" else folder
        videos[f"{method}/1234_1950-01-01_2010"] = method, "test", "1234"
    return videos


def celeb_df_plus_plus(root):
    real = {
        "Celeb-real/id0_0001": ("real", "test", "id0"),
        "YouTube-real/00001": ("real", "train", "YouTube-real/00001"),
    }
    fake = {}
    for family, method, split in (("FaceSwap", "GHOST", "test"), ("TalkingFace", "FLOAT", "train")):
        name = f"{family}/{method}/id0_id1_0001"
        fake[name] = method, split, name
    listed = "1 Celeb-real/id0_0001.mp4\n0 Celeb-synthesis/FaceSwap/GHOST/id0_id1_0001.mp4\n"
    (root / "List_of_testing_videos.txt").write_text(listed)
    return clips(root, real) | clips(root / "Celeb-synthesis", fake)


def df40(root):
    for frame in range(2):
        image(root / f"real/ff/frames/071/{frame}.png", faces(1)[0][frame])
        image(root / f"simswap/ff/frames/071_054/{frame}.png", faces(1, forged=True)[0][frame])
    return {
        "real/ff/071": ("real", "test", "ff/071"),
        "simswap/ff/071_054": ("simswap", "test", "ff/071"),
    }


def lae_images(root, fakes=""):
    videos = {}
    for number, split in enumerate(("train", "val", "test")):
        image(root / split / "real/a b é.png", faces(number)[0][0])
        cluster = f"{split}/{fakes and 'real/'}a b é"  # one picture, and its forgeries
        videos[f"{split}/real/a b é"] = "real", split, cluster
        for method in ("seen", "unseen"):
            images, masks = faces(number, forged=True)
            image(root / split / "fake" / method / "a b é.png", images[0])
            image(root / split / "mask" / method / "a b é.png", masks[0] * np.uint8(255))
            videos[f"{split}/{fakes}{method}/a b é"] = method, split, cluster
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
    "hidf": hidf,
    "hidf-sample": partial(hidf, tail=""),
    # Of the first three of five folds.
    "hidf-sample-fold-1": partial(hidf_folds, splits=("test", "val", "train")),
    "hidf-sample-fold-2": partial(hidf_folds, splits=("train", "test", "val")),
    "hidf-sample-fold-3": partial(hidf_folds, splits=("train", "train", "test")),
    "hidf-sample-fold-4": partial(hidf_folds, splits=("train", "train", "train")),
    "hidf-sample-fold-5": partial(hidf_folds, splits=("val", "train", "train")),
    "rtfs-10k": rtfs,
    "inp-x": inp_x,
    "semi-truths-faces": semi_truths,
    "deepfakeface": deepfakeface,
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
    for name in ("071", "953", "071_054", "953_974"):
        split = "train" if name.startswith("071") else "test"
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
