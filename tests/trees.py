"""Miniature trees, true to the official layouts in names, lists, codecs (H.264) and masks, of drawn faces."""

import json
from functools import cache

import av
import cv2
import numpy as np
from PIL import Image

from dfnb import core

SIZE, FRAMES = 160, 6


class Centre:
    """Finds one face in the middle of every image: for trials without a network."""

    sha256 = "1" * 64

    def __call__(self, image):
        height, width = image.shape[:2]
        marks = [(0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.38, 0.7), (0.62, 0.7)]
        box = [0.25 * width, 0.2 * height, 0.5 * width, 0.6 * height]
        return np.array([[*box, *np.ravel([[x * width, y * height] for x, y in marks]), 0.9]])


@cache
def faces(number, forged=False, n=FRAMES):
    """Frames (n, H, W, 3) uint8 of a drawn face, whose mouth may be forged, and the masks (n, H, W)."""
    draw = np.random.default_rng(number)
    wall = cv2.resize(draw.integers(60, 180, (12, 12, 3), np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    images, masks = [], []
    for i in range(n):
        image, mask = wall.copy(), np.zeros((SIZE, SIZE), np.uint8)
        cv2.ellipse(image, (80 + i, 80), (36, 46), 0, 0, 360, (205, 160, 130), -1)
        for x in (64, 96):
            cv2.circle(image, (x + i, 66), 5, (40, 30, 30), -1)
        if forged:
            cv2.ellipse(mask, (80 + i, 104), (24, 14), 0, 0, 360, 1, -1)
            image[mask > 0] = (120, 40, 60)
        images.append(image)
        masks.append(mask > 0)
    return np.stack(images), np.stack(masks)


def video(path, images, crf=18):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25, {"crf": str(crf), "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path


def real(path, number):
    return video(path, faces(number)[0])


def fake(path, number, mask=None):
    images, masks = faces(number, forged=True)
    if mask:
        video(mask, np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))
    return video(path, images)


def image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


# Each writes a tree below a root and returns the videos that a scan must find: {name: (label, method, split, cluster)}.


def faceforensics(root, compression="c23"):
    expected = {}
    for a, b, split in (("071", "054", "train"), ("720", "672", "val"), ("953", "974", "test")):
        for one, other in ((a, b), (b, a)):
            number = int(one)
            real(root / f"original_sequences/youtube/{compression}/videos/{one}.mp4", number)
            expected[f"real/{one}"] = 0, "real", split, f"{a}_{b}"
            for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"):
                below, name = root / "manipulated_sequences" / method, f"{one}_{other}.mp4"
                mask = None if method == "FaceShifter" else below / "masks/videos" / name
                fake(below / compression / "videos" / name, number, mask=mask)
                expected[f"{method}/{one}_{other}"] = 1, method, split, f"{a}_{b}"
    return expected


def four(expected):
    return {name: row for name, row in expected.items() if row[1] != "FaceShifter"}


def shifted(expected):
    return {name: row for name, row in expected.items() if row[1] in ("real", "FaceShifter")}


def lae_face(root):
    return {name: row for name, row in faceforensics(root).items() if row[1] in ("real", "Face2Face", "FaceSwap")}


def dfd(root):
    below = root / "manipulated_sequences/DeepFakeDetection"
    real(root / "original_sequences/actors/c23/videos/01__exit_phone_room.mp4", 1)
    name = "01_02__exit_phone_room__YVGY8LOK.mp4"
    fake(below / "c23/videos" / name, 1, mask=below / "masks/videos" / name)
    return {
        "real/01__exit_phone_room": (0, "real", "test", "01"),
        f"DeepFakeDetection/{name[:-4]}": (1, "DeepFakeDetection", "test", "01"),
    }


def celeb_df(root, version=2):
    for number, name in enumerate(("Celeb-real/id0_0001", "Celeb-real/id1_0007", "YouTube-real/00170")):
        real(root / f"{name}.mp4", number)
    for number, name in enumerate(("id0_id1_0001", "id1_id0_0007")):
        fake(root / f"Celeb-synthesis/{name}.mp4", number)
    new = "test" if version == 2 else "train"
    return {
        "Celeb-real/id0_0001": (0, "real", new, "id0"),
        "Celeb-real/id1_0007": (0, "real", "test", "id1"),
        "YouTube-real/00170": (0, "real", "test", "YouTube-real/00170"),
        "Celeb-synthesis/id0_id1_0001": (1, "Celeb-synthesis", new, "id0"),
        "Celeb-synthesis/id1_id0_0007": (1, "Celeb-synthesis", "test", "id1"),
    }


def dfdc_p(root):
    rows = {
        "original_videos/643049/643049_A_001.mp4": ("real", "train", "real"),
        "original_videos/1260311/1260311_C_002.mp4": ("real", "test", "real"),
        "method_A/643049/643049_A/1260311_643049_A_001.mp4": ("fake", "train", "method_A"),
        "method_B/1260311/1260311_C/1255229_1260311_C_001.mp4": ("fake", "test", "method_B"),
    }
    expected = {}
    for number, (path, (label, split, method)) in enumerate(rows.items()):
        (real if label == "real" else fake)(root / path, number)
        folder, person, *below = path[:-4].split("/")
        expected["/".join([folder, person, *below])] = int(label == "fake"), method, split, person
    about = {path: {"label": label, "set": split, "augmentations": []} for path, (label, split, _) in rows.items()}
    (root / "dataset.json").write_text(json.dumps(about))
    return expected


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
    expected = {}
    for identity, split in (("000", "train"), ("001", "val"), ("002", "test")):
        name = f"{identity}_W101"
        real(root / f"original_sequences/youtube/c23/videos/{identity}.mp4", int(identity))
        fake(root / f"manipulated_videos/end_to_end/{name}.mp4", int(identity))
        (root / "lists/splits").mkdir(parents=True, exist_ok=True)
        (root / f"lists/splits/{split}.txt").write_text(f"{name}.mp4\n")
        expected[f"real/{identity}"] = 0, "real", split, identity
        expected[f"DF-VAE/{name}"] = 1, "DF-VAE", split, "W101"
    return expected


def uadfv(root):
    real(root / "real/0047.mp4", 4)
    fake(root / "fake/0047_fake.mp4", 4)
    return {"real/0047": (0, "real", "test", "0047"), "FakeApp/0047_fake": (1, "FakeApp", "test", "0047")}


def wilddeepfake(root):
    expected = {}
    for number, (label, split) in enumerate((("real", "train"), ("fake", "train"), ("real", "test"), ("fake", "test"))):
        for sequence in ("103", "104"):
            for frame, pixels in enumerate(faces(number)[0][:3]):
                image(root / f"{label}_{split}/0/{label}/{sequence}/{9 + frame}.png", pixels)
            method = "real" if label == "real" else "WildDeepfake"
            expected[f"{label}_{split}/0/{sequence}"] = int(label == "fake"), method, split, f"{label}_{split}/0"
    return expected


def lae_images(root, methods=("seen", "unseen")):
    expected = {}
    for number, split in enumerate(("train", "val", "test")):
        image(root / split / "real/a b é.png", faces(number)[0][0])
        expected[f"{split}/real/a b é"] = 0, "real", split, f"{split}/a b é"
        for method in methods:
            images, masks = faces(number, forged=True)
            image(root / split / "fake" / method / "a b é.png", images[0])
            image(root / split / "mask" / method / "a b é.png", masks[0] * np.uint8(255))
            expected[f"{split}/{method}/a b é"] = 1, method, split, f"{split}/a b é"
    return expected


TREES = {
    "faceshifter": lambda root: shifted(faceforensics(root)),
    "faceforensics-raw": lambda root: four(faceforensics(root, "raw")),
    "faceforensics-c23": lambda root: four(faceforensics(root)),
    "faceforensics-c40": lambda root: four(faceforensics(root, "c40")),
    "dfd": dfd,
    "celeb-df-v1": lambda root: celeb_df(root, 1),
    "celeb-df-v2": celeb_df,
    "dfdc-p": dfdc_p,
    "dfdc": dfdc,
    "deeperforensics": deeperforensics,
    "uadfv": uadfv,
    "wilddeepfake": wilddeepfake,
    "lae-face": lae_face,
    "lae-inpainting": lae_images,
    "lae-attribute": lae_images,
}


def deepfakebench(root):
    """A tree as DeepfakeBench leaves it, with its JSON: FaceForensics++ for one method, and Celeb-DF as its second set."""
    rgb, tree, expected = root / "rgb", {"FF-real": {}, "FF-DF": {}}, {}
    for a, b, split in (("071", "054", "train"), ("953", "974", "test")):
        for one, other in ((a, b), (b, a)):
            for label, name, where in (
                ("FF-real", one, "original_sequences/youtube"),
                ("FF-DF", f"{one}_{other}", "manipulated_sequences/Deepfakes"),
            ):
                images, masks = faces(int(one), forged=label == "FF-DF")
                entry = {"label": label, "frames": [], "masks": []}
                for n in (3, 10, 0):  # os.scandir gives no order
                    below = f"FaceForensics++/{where}/c23/frames/{name}/{n:03d}.png"
                    image(rgb / below, images[n % FRAMES])
                    entry["frames"].append(below.replace("/", "\\"))  # as its published files have them
                    if label == "FF-DF":
                        below = f"FaceForensics++/{where}/c23/masks/{name}/{n:03d}.png"
                        image(rgb / below, masks[n % FRAMES] * np.uint8(255))
                        entry["masks"].append(below)
                tree[label].setdefault(split, {}).setdefault("c23", {})[name] = entry
                tree[label][split].setdefault("c40", {})[name] = entry
                expected[f"{label}/{name}"] = label == "FF-DF", split, f"{a}_{b}"
    file = root / "FF-DF.json"
    file.write_text(json.dumps({"FF-DF": tree}))
    return file, rgb, expected


def recorded(folder):
    """The record of a dataset describes the table that is there now, as a foreign dataset's would."""
    record = core.read_json(folder / "record.json")
    outputs = {"frames.parquet": core.sha256(folder / "frames.parquet")}
    core.write_json(folder / "record.json", record | {"outputs": outputs})
