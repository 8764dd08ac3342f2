"""The operations of a profile's trainings, counted, and the hours that GPUs would take at a share of their peak.

``python benchmarks/operations.py paper --gpus 8``: the arithmetic of `dfnb cost` with counted operations in the place of measured
seconds. Nothing is trained and nothing is fetched; minutes on a CPU, since one step of each network is done.
"""

import argparse
from functools import cache

import pandas as pd
import torch
from step import PEAKS, convolution_backward_flops
from torch.utils.flop_counter import FlopCounterMode

from dfnb import papers
from dfnb.cli import workflow
from dfnb.train import Step

cost = workflow("cost")
PEAK = PEAKS["GH200|H200|H100"][-1]


@cache
def operations(paper: str) -> float:
    """TFLOP per image of a training step with the paper's published settings; without LAE's comparator, which needs its weights."""
    module = papers.module(paper)
    off = {"pretrained": False} | ({"perceptual_weight": 0.0} if paper == "lae" else {})
    settings = module.Settings(**off)
    torch.manual_seed(0)
    step = Step(module.Network(settings)).train()
    formulas = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counted:
        losses = step(cost._batch(settings, 2))
        (losses["total"] + losses.get("adversary", 0)).backward()
    return counted.get_total_flops() / 2 / 1e12


def grid(profile: str, gpus: int, share: float) -> pd.DataFrame:
    """By paper and group: trainings, images, TFLOP per image, hours of one GPU; and of all of them on so many GPUs."""
    cost.measured = lambda paper, *_: (operations(paper) / (PEAK * share), 0.0)
    table = cost.cost(profile).drop(columns="memory GiB")
    per_image = {paper: operations(paper) for paper in table.index.get_level_values("paper").unique().drop("all")}
    table.insert(2, "TFLOP/image", table.index.get_level_values("paper").map(per_image))
    table["hours of one training"] = table["hours"] / table["trainings"]
    table.loc[("all", f"on {gpus} GPUs"), "hours"] = table["hours"].iloc[-1] / gpus
    return table.round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="paper")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument(
        "--share", type=float, default=0.2, help=f"of {PEAK:.0f} TFLOP/s, the dense bf16 of an H100; an assumption"
    )
    given = parser.parse_args()
    print(grid(given.profile, given.gpus, given.share).to_string())
