"""The ``dfnb`` command: make data, run a profile, show its table."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from dfnb import store
from dfnb.store import DfnbError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


class _Said(typer.core.TyperGroup):
    """Says a :class:`DfnbError` in one line and exits with 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except DfnbError as error:
            typer.echo(f"dfnb: {error}", err=True)
            raise typer.Exit(1) from None


app.info.cls = _Said


@app.callback()
def _main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)


@app.command()
def run(
    profile: Annotated[str, typer.Argument(help="a file of notebooks/profiles: smoke, demo, study, paper")] = "smoke",
    cores: Annotated[int, typer.Option(help="notebooks at the same time; 0: as many as there are cores")] = 0,
    gpus: Annotated[int, typer.Option(help="GPUs to share among the trainings")] = 1,
) -> None:
    """Run a profile's grid through papermill (by Snakemake), then show the main table.

    What is done is not done again; after an interruption the same command goes on where it was.
    """
    from dfnb import report
    from dfnb import run as grid

    grid.jobs(profile)  # every parameter is checked before anything runs
    snakefile = store.find("workflow") / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "-s", str(snakefile), "-d", str(store.home())]
    command += ["--cores", str(cores or "all"), "--resources", f"gpu={gpus}" if _has_gpu() else "gpu=999"]
    command += ["--config", f"profile={profile}", "--rerun-incomplete", "--nolock", "--keep-going"]
    command += ["--quiet", "rules", "progress", "host"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    status = subprocess.run(command, env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}, check=False).returncode
    if status:
        failed = [job for job in grid.jobs(profile) if not job.record.exists()]
        names = ", ".join(str(job.executed.relative_to(store.home())) for job in failed)
        raise DfnbError(f"profile {profile} did not end; the last output of what is missing stands in {names}")
    typer.echo(report.main_table(profile))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@app.command()
def show(profile: Annotated[str, typer.Argument(help="a profile that was run")] = "demo") -> None:
    """Show a profile's main table and where its report lies."""
    from dfnb import report

    typer.echo(report.main_table(profile))
