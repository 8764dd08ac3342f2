"""Running a profile: what comes before and after Snakemake, which executes its calls.

The rules are in ``workflow/Snakefile``; :mod:`dfnb.running.execution` is what they start.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import joblib

from dfnb.results import page
from dfnb.running import measuring, planning, profiles
from dfnb.running.planning import Plan
from dfnb.store import reports
from facesets import files, records
from facesets.checks import DfnbError
from facesets.manifests import is_available

DRY_RUN = ["--dry-run", "--quiet", "host", "reason"]  # with the messages of rules: the commands


def run(
    profile: str,
    cores: int,
    main: bool = False,
    dry_run: bool = False,
    options: Sequence[str] = (),
) -> None:
    """Execute the unfinished calls of a profile, then print where its report is.

    Raises :class:`DfnbError` when a call failed; Snakemake has named its log.

    Args:
        profile: Its name.
        cores: How many calls run at the same time; 0: as many as there are cores, within the limits
            of this process, such as those of a container.
        main: Whether to leave out the trainings of all variants.
        dry_run: Whether to print the unfinished calls as commands instead.
        options: Further options of Snakemake.
    """
    if records.commit().endswith("-dirty"):
        _say("uncommitted changes: the records will say -dirty, and nobody can make them again")
    with files.locked(files.home() / ".snakemake"):  # Snakemake's own lock would not end with us
        plan = planning.plan(profile, main)
        _say_left_out(plan, main)
        if not dry_run:
            _prepare(plan)
        planned = [*plan.trainings, *plan.shown]
        for each in planned:  # papermill makes no folder
            (files.home() / each.executed).parent.mkdir(parents=True, exist_ok=True)
        _say(f"{len(planned)} calls, {sum(each.done for each in planned)} done")
        is_done = _run_snakemake(plan, cores, main, [*(DRY_RUN if dry_run else ()), *options])
    if not is_done:
        raise DfnbError(
            f"profile {profile} did not finish; the logs named above end with the reasons, and the "
            "same command continues"
        )
    if dry_run or not all(each.done for each in plan.shown):
        return  # some of the options make Snakemake execute nothing
    for each in plan.shown:  # and no others, which may be a reader's own
        page.sign(files.home() / each.executed)
    report = files.report_folder(profile)
    if page.REPORT in [each.name for each in plan.shown]:
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")


def _say_left_out(plan: Plan, main: bool) -> None:
    """Say which datasets and calls of a profile are left out, and why."""
    for dataset in profiles.read(plan.profile).test_sets:
        if "{fold}" not in dataset and not is_available(dataset, "test"):
            _say(
                f"left out: {dataset} is not prepared; `dfnb data` says how to get it, and `dfnb "
                f"prepare {dataset} --root FOLDER --splits test` prepares what this profile needs"
            )
    for call in () if main else plan.left_out:
        _say(f"left out: {call.notebook}, {call}: its datasets or weights are not here")


def _prepare(plan: Plan) -> None:
    """Bring the report's folder up to date, and fetch what the unfinished calls need."""
    profiles.keep_copy(plan.profile)  # the report's notebooks read it
    reports.pictures_folder(plan.profile)  # with its .gitignore
    planning.set_replaced_aside(plan)
    for training in plan.trainings:  # no kernel need start for what is scored already
        if not training.done and (run := measuring.scored(training.parameters)):
            measuring.add(training.parameters, run)
    planning.fetch_needed(plan)


def _run_snakemake(plan: Plan, cores: int, main: bool, options: Sequence[str]) -> bool:
    """Execute the calls by Snakemake, in this process; returns whether all have ended well."""
    from snakemake.cli import main as snakemake  # takes a second to import

    # In quotes: Snakemake would take a profile 2024 for a number.
    config = [f"profile={json.dumps(plan.profile)}", f"main={main}"]
    # Relative to the home, so that no character of the home's name matters to Snakemake.
    command = ["--snakefile", files.find("workflow/Snakefile"), "--directory", files.home()]
    command += ["--config", *config, "--cores", cores or joblib.cpu_count(), "--nolock"]
    # A file of this name is all that Snakemake would ask for.
    others = [each.record for each in [*plan.trainings, *plan.shown] if not each.done]
    command += ["--forcerun", *others] if others else []
    logging.getLogger("snakemake").propagate = False  # it has a handler of its own
    folder = Path.cwd()
    try:
        snakemake([*map(str, command), *options])
    except SystemExit as end:
        return not end.code
    finally:
        os.chdir(folder)


def _say(text: str) -> None:
    """Print to standard error, apart from the results of the command."""
    print(text, file=sys.stderr, flush=True)
