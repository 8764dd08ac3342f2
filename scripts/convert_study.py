"""Convert a report of the first store (runs.json and packed tables) to the store of today.

python scripts/convert_study.py OLD_REPORT PROFILE

Writes scores, test sets and weights into ``reports/PROFILE`` of the home, and copies the profile
beside them. The first store kept P(fake) in float32; the log-odds are multiples of .02, to which
they are rounded again. Used once.
"""

import argparse
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import logit

from dfnb import files, papers, store

TEXTS = ("video", "cluster", "method")
# What only today's records of such datasets say: the kinds of images that are compared.
CONTRASTS = {
    "seams": [
        ["swap", "composite"],
        ["composite", "moved"],
        ["resynthesis", "whole"],
        ["whole", "reduced"],
    ]
}
SMALLEST = 1e-12  # P(fake) is not nearer to 0 and 1


def condition(test_set: str, text: str) -> store.Condition:
    """The condition that a text of the first store named, such as ``JPEG 3``."""
    kind, _, rest = text.partition(" ")
    if kind in ("map", "sanity"):
        return store.Condition(test_set, map=rest, sanity=kind == "sanity")
    if kind == "epoch":
        return store.Condition(test_set, epoch=int(rest))
    if text:
        corruption, _, severity = text.rpartition(" ")
        return store.Condition(test_set, corruption=corruption, severity=int(severity))
    return store.Condition(test_set)


def detector_facts(paper: str) -> dict[str, Any]:
    """What today's records say of a run's detector."""
    module = papers.module(paper)
    facts = module.PAPER._asdict()
    facts["defaults"] = module.Settings().model_dump(mode="json")
    return facts


def unpacked(path: Path) -> list[pd.DataFrame]:
    """The tables of a packed file, with their facts as ``attrs``."""
    tables = []
    for text, rows in pd.read_parquet(path).groupby("facts", sort=False):
        table = rows.drop(columns=["facts", "line", "seed", "condition"])
        table = table.dropna(axis=1, how="all").reset_index(drop=True)
        floats = dict.fromkeys(table.select_dtypes("float32"), float)
        table = table.astype({**floats, **dict.fromkeys(TEXTS, str)})
        facts = json.loads(text)
        if not facts["condition"].startswith(("map ", "sanity ")):
            log_odds = logit(table["score"].clip(SMALLEST, 1 - SMALLEST))
            table["log_odds"] = (log_odds / store.LOG_ODDS_STEP).round() * store.LOG_ODDS_STEP
        table = table.drop(columns="score")
        table.attrs = facts
        tables.append(table)
    return tables


def tables_by_run(folder: Path) -> dict[str, dict[store.Condition, pd.DataFrame]]:
    """All tables of a report by run and condition; variants shared some of them."""
    by_run = defaultdict(dict)
    for path in sorted(folder.glob("scores/*.parquet")):
        for table in unpacked(path):
            facts = table.attrs
            name = facts["test_set"]
            table.attrs = {
                "fingerprint": facts["fingerprint"],
                "compression": facts["compression"],
                "contrasts": CONTRASTS.get(name.partition("-")[0], []),
            }
            of_run = by_run[facts["run"]]
            of_run.setdefault(condition(name, facts["condition"]), table)
    return by_run


def main(old: Path, profile: str) -> None:
    """Convert the report in the folder ``old``."""
    roles = defaultdict(list)
    records = {}
    detectors = json.loads((old / "runs.json").read_text())
    detectors.pop("#seal", None)
    for detector in detectors.values():
        for run_id, record in detector["runs"].items():
            roles[run_id].append([detector["group"], detector["arm"]])
            records[run_id] = {**record, "detector": detector_facts(detector["paper"])}
    tables = tables_by_run(old)
    folder = files.report_folder(profile)
    for run_id, record in records.items():
        store.write_scores(profile, record, run_id, roles[run_id], tables[run_id])
    for path in old.glob("weights/*.safetensors"):
        target = store.weights_path(folder, path.stem)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(path, target)
    shutil.copy2(files.find(f"notebooks/profiles/{profile}.yaml"), folder / "profile.yaml")
    print(f"{folder}: {len(records)} runs of {len(detectors)} detectors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("old_report", type=Path)
    parser.add_argument("profile")
    arguments = parser.parse_args()
    main(arguments.old_report, arguments.profile)
