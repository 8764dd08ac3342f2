"""What reading data costs: a large table, the wait for batches."""

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
OPENS_S, OPENS_MB, SELECTS_S, WAITS, WRITES_MB = 2.0, 1024, 1.0, 0.05, 1024


@contextmanager
def patched_home(folder: str) -> Iterator[None]:
    """Datasets are made below ``folder`` meanwhile."""
    before = os.environ.get("DFNB_HOME")
    os.environ["DFNB_HOME"] = folder
    try:
        yield
    finally:
        os.environ.pop("DFNB_HOME")
        if before is not None:
            os.environ["DFNB_HOME"] = before


# ---------------------------------------------------------------- a large table


def large(folder: Path, rows: int, per_video: int = 32) -> Path:
    """A prepared dataset's table and record, of so many rows and without any pixels."""
    n, video = rows // per_video, np.arange(rows) // per_video
    draw, of_video = rng("benchmark", rows), np.arange(n)
    method, split = of_video % 5, np.array([0] * 7 + [1, 2, 2])[of_video // 5 % 10]
    names = ["real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]

    def column(codes: np.ndarray, values: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes[video].astype(np.int32)), pa.array(values, pa.string())
        )

    people = [f"{number:05d}" for number in range(n // 5 + 1)]
    paths = [f"{names[m]}/{number:06d}" for number, m in enumerate(method)]

    def lists(length: int) -> pa.Array:
        values = pa.array(draw.random(length * rows, np.float32))
        return pa.FixedSizeListArray.from_arrays(values, length)

    columns = {
        "dataset": column(0 * of_video, ["large"]),
        "split": column(split, list(frames.SPLITS)),
        "video": column(of_video, paths),
        "track": np.zeros(rows, np.int16),
        "frame": np.arange(rows) % per_video * 10,
        "row": np.arange(rows) % per_video,
        "cluster": column(of_video // 5, people),
        "identity": column(of_video // 5, people),
        "source": column(of_video // 5, people),
        "method": column(method, names),
        "label": (method[video] > 0).astype(np.int8),
        "path": column(of_video, [f"videos/{path}/frames.npy" for path in paths]),
        "mask": column(of_video, [f"videos/{path}/masks.npy" for path in paths]),
        "landmarks": lists(10),
        "crop_box": lists(4),
        "scale": draw.random(rows, np.float32),
    }
    folder.mkdir(parents=True)
    table = {name: pa.array(values).cast(frames.COLUMNS[name]) for name, values in columns.items()}
    pq.write_table(pa.table(table, schema=pa.schema(frames.COLUMNS)), folder / "frames.parquet")
    write_record(folder, {"rows": rows}, ["frames.parquet"], fingerprint="none", n={})
    return folder


def timed(call: Any) -> tuple[float, Any]:
    start = time.process_time()  # of all threads: on an idle machine the clock shows no more
    result = call()
    return time.process_time() - start, result


@app.command("table")
def table_(
    rows: Annotated[int, typer.Option(min=320, help="rows of the table")] = 2_000_000,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = OUT,
) -> None:
    """Seconds of processor time and memory to open a frames table, to select of it, and to order
    an epoch.
    """
    found, peak = [], lambda: Clock().usage()["peak_memory_mb"]
    with tempfile.TemporaryDirectory() as scratch:
        if not os.fork():  # made by another process, so that its memory is not ours
            large(Path(scratch, "large"), rows)
            os._exit(0)
        os.wait()
        for _ in range(rounds + 1):
            before = peak()
            opened, table = timed(lambda: load_frames(Path(scratch, "large")))
            memory = peak() - before
            split, train = timed(lambda table=table: select(table, "train"))
            method, _ = timed(lambda table=table: select(table, "train", ["FaceSwap"]))
            sampler = EpochSampler(train, 32, seed=0)
            order, first = timed(lambda sampler=sampler: sampler.order(0))
            if not (first == sampler.order(0)).all():
                raise AssertionError("the order of an epoch differs from itself")
            found.append(
                {
                    "open_cpu_s": opened,
                    "open_mb": memory,
                    "select_split_cpu_s": split,
                    "select_method_cpu_s": method,
                }
            )
            found[-1] |= {"epoch_order_cpu_s": order}
            del table, train, sampler
    found[1:] = [
        row | {"open_mb": found[0]["open_mb"]} for row in found[1:]
    ]  # the peak of the process: only the first opening raises it
    measured = pd.DataFrame(found[1:])
    row = {"rows": rows, "rounds": rounds}
    for name in measured:
        row |= spread(name, measured[name])
    row["process_mb"] = peak()
    write(out, f"table-{rows}rows", [row])
    for name, limit in (
        ("open_cpu_s", OPENS_S),
        ("open_mb", OPENS_MB),
        *((s, SELECTS_S) for s in measured if "select" in s),
    ):
        typer.echo(f"{name} under {limit}: {'met' if row[f'{name}_median'] < limit else 'not met'}")


def stored(folder: Path, videos: int, per_video: int) -> None:
    """The rows of so many prepared videos as `dfnb prepare` leaves them, without any pixels;
    five videos per person.
    """
    names, texts, draw = (
        ["real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"],
        {},
        rng("benchmark", 1),
    )
    for split, method in product(frames.SPLITS, names):
        known = {
            "dataset": folder.name,
            "split": split,
            "cluster": "PERSON",
            "identity": "PERSON",
            "source": "PERSON",
        }
        known |= {"method": method, "label": int(method != "real"), "track": 0, "scale": 0.75}
        marks, boxes = (
            draw.uniform(0, 300, (per_video, 10)).round(3),
            draw.integers(0, 900, (per_video, 4)),
        )
        rows = [
            known | {"frame": 10 * i, "landmarks": mark, "crop_box": box}
            for i, (mark, box) in enumerate(zip(marks.tolist(), boxes.tolist()))
        ]
        texts[split, method] = json.dumps(
            {"crops_hash": "0" * 128, "masks_hash": "1" * 128, "rows": rows}
        )
    for number in range(videos):
        method, split = names[number % 5], frames.SPLITS[([0] * 7 + [1, 2, 2])[number // 5 % 10]]
        place = folder / "videos" / method / f"{number:06d}"
        place.mkdir(parents=True)
        text = texts[split, method].replace("PERSON", f"{number // 5:05d}")
        (place / "video.json").write_text(text, encoding="utf-8")


# A process of its own, so that its memory is that of gathering alone. Linux's VmHWM: what
# resource.getrusage says begins at the memory of the process that started this one.
GATHER = """
import json, re, sys, time
from pathlib import Path
from dfnb.data import frames

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

start, before = time.process_time(), peak_mb()
record = frames.write_dataset(Path(sys.argv[1]), {})
facts = {"cpu_s": round(time.process_time() - start, 1)}
facts |= {"process_mb_before": before, "process_mb": peak_mb()}
print(json.dumps({"rows": sum(part["frames"] for part in record["n"].values())} | facts))
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
        done = subprocess.run(
            [sys.executable, "-c", GATHER, folder], check=True, capture_output=True, text=True
        )
        table_mb = round((folder / "frames.parquet").stat().st_size / 2**20, 1)
    row = json.loads(done.stdout)
    write(out, f"writing-{row['rows']}rows", [{"videos": videos} | row | {"table_mb": table_mb}])
    typer.echo(
        f"process_mb under {WRITES_MB}: {'met' if row['process_mb'] < WRITES_MB else 'not met'}"
    )


# ---------------------------------------------------------------- the wait for batches


def drawn_crops(folder: Path, videos: int, length: int, size: int) -> pd.DataFrame:
    """The frames table of a dataset of smooth noise: every second video is fake, forged
    everywhere.
    """
    draw = rng("benchmark", 1)
    about = {"dataset": "crops", "split": "train", "track": 0, "identity": "", "source": ""}
    about |= {"landmarks": [1.0] * 10, "crop_box": [0, 0, size, size], "scale": 1.0}
    for number in range(videos):
        label, coarse = (
            number % 2,
            draw.integers(0, 256, (length, -(-size // 8), -(-size // 8), 3), np.uint8),
        )
        crops = np.stack(
            [cv2.resize(each, (size, size), interpolation=cv2.INTER_CUBIC) for each in coarse]
        )
        crops = np.clip(crops + draw.integers(-8, 9, crops.shape, np.int16), 0, 255).astype(
            np.uint8
        )
        row = about | {
            "cluster": str(number),
            "method": "swap" if label else "real",
            "label": label,
        }
        masks = np.ones((length, size, size), bool) if label else None
        frames.write_video(
            folder / f"videos/{number}", [row | {"frame": i} for i in range(length)], crops, masks
        )
    frames.write_dataset(folder, {})
    return load_frames(folder)


def waits(batches: Iterable, step: Callable, device: str, steps: int, warmup: int) -> pd.DataFrame:
    """Seconds of each of ``steps`` training steps, ``whole_s``, and of its wait for the batch,
    ``wait_s``.

    ``step`` gets the batch on the device. ``warmup`` steps go first unseen: workers start, and fill
    their queues.
    """
    rows, batches = [], iter(batches)
    for _ in range(warmup + steps):
        start = time.perf_counter()
        loaded = next(batches)
        waited = time.perf_counter() - start
        batch = {name: value.to(device, non_blocking=True) for name, value in loaded.items()}
        step(batch | {"epoch": 0, "partner": None, "weight": 1.0})
        if device == "cuda":
            torch.cuda.synchronize()
        rows.append({"wait_s": waited, "whole_s": time.perf_counter() - start})
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
    """The share of a training epoch that is spent waiting for the next batch of memory-mapped
    crops.
    """
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = {
        "backbone": backbone,
        "image_size": size,
        "pretrained": False,
        "augmentation": "light",
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
        sampler = EpochSampler(table, batch, 0, limit=batch * (steps + 10))
        batches = loader(
            FrameDataset(table, settings, seed=0), sampler, workers, pin=device == "cuda"
        )
        seconds = waits(batches, train_step, device, steps, warmup=10)
    share, whole = seconds["wait_s"].sum() / seconds["whole_s"].sum(), seconds["whole_s"].sum()
    row = {
        "backbone": backbone,
        "size_px": size,
        "batch": batch,
        "workers": workers,
        "steps": steps,
        "device": device,
    }
    row |= {"images_per_s": round(batch * steps / whole, 1), "waiting_share": round(share, 4)}
    write(out, f"loading-{backbone}-{size}px-batch{batch}-{device}-{workers}workers", [row])
    typer.echo(f"waiting under {WAITS:.0%}: {share:.1%}, {'met' if share < WAITS else 'not met'}")


# ---------------------------------------------------------------- rows


def spread(name: str, values: pd.Series) -> dict[str, float]:
    """Median and quartiles."""
    return {
        f"{name}_{label}": round(float(values.quantile(q)), 4)
        for label, q in (("median", 0.5), ("q1", 0.25), ("q3", 0.75))
    }


def write(out: Path, name: str, rows: list[dict]) -> None:
    """Rows with where they were measured, to ``out/<name>.csv``."""
    facts = environment()
    info = Path("/proc/cpuinfo")
    models = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if "model name" in line
        ]
        if info.exists()
        else []
    )
    where = {
        "device_model": models[0] if models else facts["device"],
        "cores": os.cpu_count(),
        "threads": facts["threads"],
    }
    where |= {
        "load_before": round(os.getloadavg()[1], 1),
        "torch": facts["packages"]["torch"],
        "commit": facts["commit"],
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
