"""What reading data costs: a large table, the wait for batches.

``python benchmarks/data.py table`` opens a large frames table, selects from it and orders an epoch,
``writing`` gathers the videos of a large dataset into its table, and ``loading`` measures how long
a training waits for its batches. Each writes one row to ``reports/benchmarks`` and says whether its
targets are met.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from dfnb.data import frames
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import EpochSampler, FrameDataset, loader
from dfnb.files import atomic
from dfnb.papers import xception
from dfnb.papers.contract import Batch
from dfnb.records import Clock, environment, write_record
from dfnb.seeds import rng
from dfnb.settings import DfnbError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)
OUT = Path("reports/benchmarks")
METHODS = ["real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]  # of invented videos
TENTHS = [0] * 7 + [1, 2, 2]  # of ten people 7 are in train, 1 in val and 2 in test: see split_of

# Targets.
OPENS_S = 2.0  # processor time to open a table of two million rows
OPENS_MB = 1024  # memory for it
SELECTS_S = 1.0  # processor time to select rows of it
WAITS = 0.05  # share of a training epoch that passes in waiting for batches
WRITES_MB = 1024  # memory to gather a table of five million rows


@contextmanager
def patched_home(folder: str) -> Iterator[None]:
    """Datasets and runs are looked for, and made, below ``folder`` meanwhile."""
    before = os.environ.get("DFNB_HOME")
    os.environ["DFNB_HOME"] = folder
    try:
        yield
    finally:
        os.environ.pop("DFNB_HOME")
        if before is not None:
            os.environ["DFNB_HOME"] = before


def split_of(person: int | np.ndarray) -> int | np.ndarray:
    """The place in ``frames.SPLITS`` of a person's split, by the person's number."""
    return np.array(TENTHS)[person % 10]


# ---------------------------------------------------------------- a large table


def large(folder: Path, rows: int, per_video: int = 32) -> Path:
    """Write the table and record of a prepared dataset without any pixels; returns ``folder``.

    There are five videos per person, one of each method. Ends the program unless ``rows`` is a
    multiple of ``per_video``.
    """
    if rows % per_video:
        raise SystemExit(f"--rows {rows} is no multiple of {per_video}, the rows of a video")
    videos = rows // per_video
    number = np.arange(videos)  # of each video
    person = number // 5
    method = number % 5
    video_of_row = np.arange(rows) // per_video
    place_in_video = np.arange(rows) % per_video
    draw = rng("benchmark", rows)

    def column(codes: np.ndarray, values: list[str]) -> pa.Array:
        """A column of text: for each video, the place of its text among the values."""
        indices = pa.array(codes[video_of_row].astype(np.int32))
        return pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string()))

    def lists(length: int) -> pa.Array:
        """A column of lists of so many random numbers."""
        values = pa.array(draw.random(length * rows, np.float32))
        return pa.FixedSizeListArray.from_arrays(values, length)

    def files(name: str) -> list[str]:
        """A file of each row, named by its place in the video."""
        places = map(name.format, place_in_video)
        return [f"videos/{titles[one]}/{file}" for one, file in zip(video_of_row, places)]

    people = [f"{one:05d}" for one in range(videos // 5 + 1)]
    titles = [f"{METHODS[code]}/{one:06d}" for one, code in enumerate(method)]
    columns = {
        "dataset": column(0 * number, ["large"]),  # the same for all videos
        "split": column(split_of(person), list(frames.SPLITS)),
        "video": column(number, titles),
        "track": np.zeros(rows, np.int16),
        "frame": place_in_video * 10,
        "row": place_in_video,
        "cluster": column(person, people),
        "identity": column(person, people),
        "source": column(person, people),
        "original": column(0 * number, [""]),
        "method": column(method, METHODS),
        "label": (method[video_of_row] > 0).astype(np.int8),
        "path": files(frames.CROP_FILE),
        "mask": files(frames.MASK_FILE),
        "landmarks": lists(10),
        "crop_box": lists(4),
        "scale": draw.random(rows, np.float32),
    }
    folder.mkdir(parents=True)
    table = {name: pa.array(values).cast(frames.COLUMNS[name]) for name, values in columns.items()}
    pq.write_table(pa.table(table, schema=pa.schema(frames.COLUMNS)), folder / "frames.parquet")
    outputs = [folder / "frames.parquet"]
    write_record(folder / "record.json", {"rows": rows}, outputs, fingerprint="none", n={})
    return folder


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time of a call, and what it returns.

    The time is that of all threads. Other programs on the machine do not add to it, as they would
    to the wall time.
    """
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def peak_mb() -> float:
    """The largest memory that this process has held so far, in MB."""
    return Clock().usage()["peak_memory_mb"]


def opening(folder: Path) -> dict[str, float]:
    """What it costs to open a table once, to select from it and to order an epoch of it."""
    before = peak_mb()
    open_s, table = timed(lambda: load_frames(folder))
    open_mb = peak_mb() - before
    split_s, train = timed(lambda: select(table, "train"))
    method_s, _ = timed(lambda: select(table, "train", ["FaceSwap"]))
    sampler = EpochSampler(train, xception.Settings(batch_size=32, oversampling=None), seed=0)
    order_s, order = timed(lambda: sampler.order(0))
    if not (order == sampler.order(0)).all():
        raise AssertionError("the order of an epoch differs from itself")
    return {
        "open_cpu_s": open_s,
        "open_mb": open_mb,
        "select_split_cpu_s": split_s,
        "select_method_cpu_s": method_s,
        "epoch_order_cpu_s": order_s,
    }


@app.command("table")
def table_(
    rows: Annotated[int, typer.Option(min=320, help="rows of the table")] = 2_000_000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = OUT,
) -> None:
    """Seconds of processor time and memory to open a frames table, to select from it, and to
    order an epoch.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "large")
        if not os.fork():  # made by another process, so that its memory is not ours
            large(folder, rows)
            os._exit(0)
        _, status = os.wait()
        if status:  # the other process has printed why
            raise SystemExit(1)
        first = opening(folder)  # also imports what opening needs, so its times do not count
        measured = pd.DataFrame([opening(folder) for _ in range(rounds)])
    # The peak of a process never falls: only the first opening raises it.
    measured["open_mb"] = first["open_mb"]
    row = {"rows": rows, "rounds": rounds}
    for name in measured:
        row.update(spread(name, measured[name]))
    row["process_mb"] = peak_mb()
    write(out, f"table-{rows}rows", [row])
    limits = {
        "open_cpu_s": OPENS_S,
        "open_mb": OPENS_MB,
        "select_split_cpu_s": SELECTS_S,
        "select_method_cpu_s": SELECTS_S,
    }
    for name, limit in limits.items():
        verdict = "met" if row[f"{name}_median"] < limit else "not met"
        typer.echo(f"{name} under {limit}: {verdict}")


def stored(folder: Path, videos: int, per_video: int) -> None:
    """Write the rows of so many videos as ``dfnb prepare`` leaves them, without any pixels.

    There are five videos per person, one of each method.
    """
    # Writing the rows of 50,000 videos as JSON takes long: each text is made once per split and
    # method, and gets a video's person by a replacement.
    texts = {}
    draw = rng("benchmark", 1)
    for split, method in product(frames.SPLITS, METHODS):
        landmarks = draw.uniform(0, 300, (per_video, 10)).round(3).tolist()
        boxes = draw.integers(0, 900, (per_video, 4)).tolist()
        rows = []
        for place in range(per_video):
            row = {
                "dataset": folder.name,
                "split": split,
                "cluster": "PERSON",
                "identity": "PERSON",
                "source": "PERSON",
                "method": method,
                "label": int(method != "real"),
                "track": 0,
                "scale": 0.75,
                "frame": 10 * place,
                "landmarks": landmarks[place],
                "crop_box": boxes[place],
            }
            rows.append(row)
        content = {"crops_hash": "0" * 128, "masks_hash": "1" * 128, "rows": rows}
        texts[split, method] = json.dumps(content)
    for number in range(videos):
        person = number // 5
        method = METHODS[number % 5]
        split = frames.SPLITS[split_of(person)]
        video_folder = folder / "videos" / method / f"{number:06d}"
        video_folder.mkdir(parents=True)
        text = texts[split, method].replace("PERSON", f"{person:05d}")
        (video_folder / "video.json").write_text(text, encoding="utf-8")


# A process of its own, so that its memory is that of gathering alone. Linux's VmHWM is the largest
# memory of this process; what resource.getrusage says begins at the memory of the process that
# started this one.
GATHER = """
import json, re, sys, time
from pathlib import Path
from dfnb.data import frames

def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024

start = time.process_time()
before = peak_mb()
record = frames.write_dataset(Path(sys.argv[1]), {})
row = {
    "rows": sum(part["frames"] for part in record["n"].values()),
    "cpu_s": round(time.process_time() - start, 1),
    "process_mb_before": before,
    "process_mb": peak_mb(),
}
print(json.dumps(row))
"""


@app.command()
def writing(
    videos: Annotated[int, typer.Option(min=1, help="prepared videos")] = 50_000,
    per_video: Annotated[int, typer.Option(min=1, help="frames of a video")] = 100,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = OUT,
) -> None:
    """Seconds of processor time and memory of a process that gathers the videos of a large
    dataset into its frames table.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "large")
        stored(folder, videos, per_video)
        command = [sys.executable, "-c", GATHER, folder]
        finished = subprocess.run(command, check=True, capture_output=True, text=True)
        table_bytes = (folder / "frames.parquet").stat().st_size
    measured = json.loads(finished.stdout)
    row = {"videos": videos, **measured, "table_mb": round(table_bytes / 2**20, 1)}
    write(out, f"writing-{row['rows']}rows", [row])
    verdict = "met" if row["process_mb"] < WRITES_MB else "not met"
    typer.echo(f"process_mb under {WRITES_MB}: {verdict}")


# ---------------------------------------------------------------- the wait for batches


def drawn_crops(folder: Path, videos: int, length: int, size: int) -> pd.DataFrame:
    """Make a dataset of smooth noise and return its frames table; every second video is fake.

    Fakes are forged everywhere. Noise is smooth so that its crops cost about what faces do.

    Args:
        folder: Of the dataset.
        videos: The number of videos, each of a person of their own.
        length: The number of frames of each.
        size: The side of the crops, in pixels.
    """
    draw = rng("benchmark", 1)
    coarse_size = -(-size // 8)  # one random value per 8 pixels, rounded up
    for number in range(videos):
        label = number % 2
        coarse = draw.integers(0, 256, (length, coarse_size, coarse_size, 3), np.uint8)
        smooth = []
        for image in coarse:
            smooth.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC))
        crops = np.stack(smooth)
        grain = draw.integers(-8, 9, crops.shape, np.int16)
        crops = np.clip(crops + grain, 0, 255).astype(np.uint8)
        rows = []
        for frame in range(length):
            row = {
                "dataset": "crops",
                "split": "train",
                "track": 0,
                "identity": "",
                "source": "",
                "landmarks": [1.0] * 10,
                "crop_box": [0, 0, size, size],
                "scale": 1.0,
                "cluster": str(number),
                "method": "swap" if label else "real",
                "label": label,
                "frame": frame,
            }
            rows.append(row)
        masks = np.ones((length, size, size), bool) if label else None
        frames.write_video(folder / f"videos/{number}", rows, crops, masks)
    frames.write_dataset(folder, {})
    return load_frames(folder)


def waits(batches: Iterable, step: Callable, device: str, steps: int, warmup: int) -> pd.DataFrame:
    """Measure how long a training waits for its batches.

    Args:
        batches: At least ``warmup`` + ``steps`` batches.
        step: A training step; it gets a batch on the device.
        device: ``cuda`` or ``cpu``.
        steps: How many steps are measured.
        warmup: How many go first unmeasured, while workers start and fill their queues.

    Returns:
        One row per step: seconds of the whole step, ``whole_s``, and of its wait for the batch,
        ``wait_s``.
    """
    rows = []
    iterator = iter(batches)
    for _ in range(warmup + steps):
        start = time.perf_counter()
        loaded = next(iterator)
        wait_s = time.perf_counter() - start
        batch = {name: value.to(device, non_blocking=True) for name, value in loaded.items()}
        # What the training loop adds to a batch; no partner: no image is mixed with another.
        step({**batch, "epoch": 0, "partner": None, "weight": 1.0})
        if device == "cuda":
            torch.cuda.synchronize()  # a GPU works on after the call has returned
        rows.append({"wait_s": wait_s, "whole_s": time.perf_counter() - start})
    return pd.DataFrame(rows[warmup:])


@app.command()
def loading(
    steps: Annotated[int, typer.Option(min=2)] = 100,
    batch: Annotated[int, typer.Option(min=2)] = 32,
    size: Annotated[int, typer.Option(help="side of the crops and images")] = 96,
    backbone: Annotated[str, typer.Option(help="timm name")] = "dfnb_plain7",
    workers: Annotated[int, typer.Option(min=0, help="the loader's processes")] = 1,
    threads: Annotated[int | None, typer.Option(help="of torch, on the CPU")] = None,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = OUT,
) -> None:
    """The share of a training epoch that is spent waiting for the next batch of crops."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    warmup = 10
    values = {
        "backbone": backbone,
        "image_size": size,
        "pretrained": False,
        "augmentation": "light",
        "batch_size": batch,
        "oversampling": None,
        "images_per_epoch": batch * (steps + warmup),
    }
    settings = xception.Settings.check(values, "the options")
    network = xception.Network(settings).to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)

    def train_step(one: Batch) -> None:
        outputs = network(one["image"].contiguous(memory_format=torch.channels_last))
        network.losses(outputs, one)["total"].backward()
        optimiser.step()
        optimiser.zero_grad()

    with tempfile.TemporaryDirectory() as scratch:
        table = drawn_crops(Path(scratch, "crops"), 200, 32, size)
        sampler = EpochSampler(table, settings, 0)
        dataset = FrameDataset(table, settings, seed=0)
        batches = loader(dataset, sampler, workers, pin=device == "cuda")
        seconds = waits(batches, train_step, device, steps, warmup)
    whole_s = seconds["whole_s"].sum()
    share = seconds["wait_s"].sum() / whole_s
    row = {
        "backbone": backbone,
        "size_px": size,
        "batch": batch,
        "workers": workers,
        "steps": steps,
        "device": device,
        "images_per_s": round(batch * steps / whole_s, 1),
        "waiting_share": round(share, 4),
    }
    write(out, f"loading-{backbone}-{size}px-batch{batch}-{device}-{workers}workers", [row])
    verdict = "met" if share < WAITS else "not met"
    typer.echo(f"waiting under {WAITS:.0%}: {share:.1%}, {verdict}")


# ---------------------------------------------------------------- rows


def spread(name: str, values: pd.Series) -> dict[str, float]:
    """Median and quartiles of some values as ``<name>_median``, ``<name>_q1`` and ``<name>_q3``."""
    quantiles = {}
    for label, share in (("median", 0.5), ("q1", 0.25), ("q3", 0.75)):
        quantiles[f"{name}_{label}"] = round(float(values.quantile(share)), 4)
    return quantiles


def processor() -> str | None:
    """The model of the processor, where the system reports it: Linux does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    for line in lines:
        if "model name" in line:
            return line.split(":", 1)[1].strip()
    return None


def write(out: Path, name: str, rows: list[dict]) -> None:
    """Write rows to ``out/<name>.csv``, with the machine and the versions, and print them."""
    measured_on = environment()
    where = {
        "device_model": processor() or measured_on["device"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[1], 1),  # mean of the last five minutes
        "torch": measured_on["packages"]["torch"],
        "commit": measured_on["commit"],
    }
    table = pd.DataFrame([row | where for row in rows])
    with atomic(out / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    typer.echo(table.drop(columns=list(where)).astype(str).T.to_string(header=False))
    typer.echo(f"written: {name}.csv in {out}")


if __name__ == "__main__":
    try:
        app()
    except (DfnbError, AssertionError) as error:
        sys.exit(f"data: {error}")
