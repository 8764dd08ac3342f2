"""The ``dfnb`` command: make data, run a profile, show its table."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from dfnb import core, papers
from dfnb.core import DfnbError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


class _Said(typer.core.TyperGroup):
    """Says a :class:`DfnbError` in one line and exits with 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except (DfnbError, ValidationError) as error:
            text = papers.explain(error) if isinstance(error, ValidationError) else error
            typer.echo(f"dfnb: {text}", err=True)
            raise typer.Exit(1) from None


app.info.cls = _Said


@app.callback()
def _main() -> None:
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("dfnb").setLevel(logging.INFO)


@app.command()
def run(
    profile: Annotated[str, typer.Argument(help="a file of notebooks/profiles: smoke, demo, study, paper")] = "smoke",
    cores: Annotated[int, typer.Option(help="jobs at the same time; 0: as many as there are cores")] = 0,
) -> None:
    """Run a profile's grid through papermill (by Snakemake), then show the main table.

    What is done is not done again; after an interruption the same command goes on where it was.
    """
    from dfnb import jobs as grid

    snakefile = core.find("workflow") / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "-s", str(snakefile), "-d", str(core.home())]
    command += [
        "--cores",
        str(cores or "all"),
        "--resources",
        "gpu=1" if _has_gpu() else "gpu=999",
    ]  # one training at a time on a GPU
    command += ["--config", f"profile={profile}", "--rerun-incomplete", "--nolock", "--keep-going"]
    command += ["--quiet", "all"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    jobs = grid.jobs(profile)  # every parameter is checked before anything runs
    todo = [job for job in jobs if not job.done()]
    for job in todo:
        job.record.unlink(missing_ok=True)
    typer.echo(f"profile {profile}: {f'{len(todo)} of {len(jobs)} jobs to do' if todo else 'all is done'}")
    status = subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode
    if status:
        failed = [job for job in jobs if not job.done() and job.log.exists()]
        names = ", ".join(str(job.log.relative_to(core.home())) for job in failed)
        raise DfnbError(f"profile {profile} did not end; the last output of what is missing stands in {names}")
    _show(profile)


@app.command()
def train(
    profile: Annotated[str, typer.Argument(help="a file of notebooks/profiles")],
    job: Annotated[str, typer.Argument(help="a training of its grid or arms; a wrong name lists those there are")],
) -> None:
    """Do one further training of a profile (`dfnb run` does them all), resumed where it was interrupted."""
    from dfnb import jobs as grid

    grid.train_job(profile, job)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@app.command()
def show(profile: Annotated[str, typer.Argument(help="a profile that was run")] = "demo") -> None:
    """Show a profile's main table and where its report lies."""
    _show(profile)


@app.command()
def report(profile: Annotated[str, typer.Argument(help="a profile that was run")] = "demo") -> None:
    """Make all tables and figures of a report again from its score files, without a model or a dataset."""
    from dfnb import tables

    typer.echo(f"report: {tables.rebuild(profile)}")


def _show(profile: str) -> None:
    from dfnb import figures

    typer.echo(f"\n{figures.main_table(profile)}\nreport: {core.find(f'reports/{profile}') / 'index.html'}")


@app.command()
def synth(
    preset: Annotated[str, typer.Argument(help="a dataset of the embedded benchmark: synth-a to synth-d")],
    portraits: Annotated[Path | None, typer.Option(help="folder of photographs to use instead of drawn faces")] = None,
    name: Annotated[str | None, typer.Option(help="name of the new dataset; default: the preset's")] = None,
    seed: Annotated[int | None, typer.Option(help="another seed draws other people")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one a core")] = None,
) -> None:
    """Make a dataset of the embedded benchmark, from drawn faces or from a folder of photographs."""
    from dfnb import synth
    from dfnb.data import prepare

    changes: dict = {} if seed is None else {"seed": seed}
    if portraits:
        changes |= {"portraits": str(portraits.expanduser().resolve()), "detector": str(prepare.detector_path())}
    if changes and name is None:
        raise DfnbError(f"{preset} with other people is another dataset; give it a name with --name")
    _tell(synth.build(name or preset, synth.preset(preset, **changes), workers), name or preset)


@app.command()
def data(
    root: Annotated[list[Path] | None, typer.Option(help="where to look for datasets, may be several")] = None,
    unpack: Annotated[bool, typer.Option(help="unpack the archives there, each into a folder of its name")] = False,
) -> None:
    """Show what is there of each published dataset: prepared, present, partly (what is missing), absent (how to get it)."""
    from dfnb.data import sources

    for folder in sources.unpack(root or []) if unpack else []:
        typer.echo(f"unpacked: {folder}")
    for name, row in sources.overview(root or []).iterrows():
        what = row["what"].replace("\n", "\n" + " " * 31)
        typer.echo(f"{name:<18} {row['state']:<9}  {what}")


@app.command()
def prepare(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(help="a folder of videos or images, a dataset of `dfnb data`, or a .json")],
    name: Annotated[str | None, typer.Argument(help="name of the new dataset, datasets/<name>")] = None,
    root: Annotated[list[Path] | None, typer.Option(help="the folder of a dataset as downloaded, or several")] = None,
    label: Annotated[str | None, typer.Option(help="real or fake, for a folder without real/ and fake/")] = None,
    split: Annotated[str, typer.Option(help="train, val or test, for a folder without these")] = "test",
    crops: Annotated[bool, typer.Option(help="the images of the folder are faces: use them where they lie")] = False,
    size: Annotated[int | None, typer.Option(help="side of a crop in pixels")] = None,
    scale: Annotated[float | None, typer.Option(help="side of a crop, by the longer side of the face's box")] = None,
    frames_per_video: Annotated[int | None, typer.Option(help="evenly spaced; default: all, or 32")] = None,
    stride: Annotated[int | None, typer.Option(help="every n-th frame, before frames_per_video")] = None,
    detect_every: Annotated[int | None, typer.Option(help="detect faces on every k-th frame at most")] = None,
    geometry: Annotated[str | None, typer.Option(help="locate_and_verify_released: crop by masks as that code")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one a core")] = None,
) -> None:
    """Prepare a dataset: find, follow and crop faces. Exits with 2 when something is missing or could not be used.

    `dfnb prepare faceforensics-c23 --root FOLDER` takes a published dataset as it was downloaded, `dfnb prepare FOLDER NAME`
    videos or images sorted into [train,val,test/]{real,fake/<method>,mask/<method>}/, `dfnb prepare FILE.json NAME --root
    FOLDER` a tree of DeepfakeBench. Killed at any moment, the same command goes on where it was.
    """
    from dfnb.data import prepare, sources

    asked = {key: ctx.params[key] for key in prepare.Settings.model_fields if ctx.params.get(key) is not None}
    given, missing = {}, []
    if what in core.described("real") and root:
        sources, missing = sources.scan(sources.load(what), root)
        given, name = sources.load(what).prepare, name or what
        if not sources:
            raise DfnbError(f"{root[0]} holds nothing of {what}: {'; '.join(missing) or sources.load(what).layout}")
    elif what.endswith(".json") and root:
        sources, missing = prepare.deepfakebench_sources(Path(what), root[0])
    elif what in core.described("real"):
        raise DfnbError(f"say where {what} lies: dfnb prepare {what} --root FOLDER; {sources.load(what).access}")
    else:
        sources = prepare.folder_sources(Path(what), label, split, crops)
    if name is None:
        raise DfnbError(f"give the dataset made of {what} a name: dfnb prepare {what} NAME")
    settings = prepare.Settings(**given | asked)
    record = prepare.prepare(name, sources, settings, workers=workers, missing=missing)
    _tell(record, name)
    typer.echo(f"\nframes without a face, by class:\n{prepare.dropouts(record).to_string()}")
    said = [f"missing: {sentence}" for sentence in record["missing"]]
    if said := said + [
        f"not used: {entry['video']} ({entry['file']}): {entry['reason']}" for entry in record["quarantine"]
    ]:
        typer.echo("\n".join(said), err=True)
        raise typer.Exit(2)


annotate = typer.Typer(no_args_is_help=True, help="Let a person paint the masks of LAE's candidates.")
app.add_typer(annotate, name="annotate")


@annotate.command("export")
def export_candidates(
    run: Annotated[str, typer.Argument(help="a run of LAE: its folder, or its id under runs/")],
    folder: Annotated[Path, typer.Argument(help="new folder for the pictures and their index")],
    share: Annotated[float, typer.Option(help="so many masks, as a share of the training frames", min=0, max=1)] = 0.03,
) -> None:
    """Write the pictures whose masks are wanted; paint each one's mask beside it, white where forged."""
    from dfnb.data import annotate as rounds

    index = rounds.export(run, folder, share)
    typer.echo(f"{folder}: {len(index)} pictures; paint {index['mask'].iloc[0]} for {index['image'].iloc[0]} and so on")


@annotate.command("import")
def import_masks(folder: Annotated[Path, typer.Argument(help="the exported folder, with masks painted")]) -> None:
    """Check the painted masks and import them; a mask that cannot be used is named, and nothing is imported then."""
    from dfnb.data import annotate as rounds

    name, n, of = rounds.load(folder)
    typer.echo(f'{n} of {of} masks imported; train LAE with annotations = "{name}"')


def _tell(record: dict, name: str) -> None:
    from dfnb.data.frames import dataset_folder

    for part, n in record["n"].items():
        typer.echo(f"{part}: {n['frames']} frames of {n['videos']} videos")
    typer.echo(f"{dataset_folder(name)}, fingerprint {record['fingerprint']}")


if __name__ == "__main__":
    app()
