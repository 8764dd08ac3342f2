"""The ``dfnb`` command: make data, run a profile, show its table."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from dfnb import core
from dfnb.core import DfnbError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
annotate = typer.Typer(
    no_args_is_help=True, help="Let a person paint the masks of the frames that active learning chooses."
)
app.add_typer(annotate, name="annotate")

ProfileName = Annotated[str, typer.Argument(help="a file of notebooks/profiles: smoke, demo, study, paper")]
Workers = Annotated[int | None, typer.Option(help="processes; default: one a core")]
Roots = Annotated[
    list[Path] | None, typer.Option(help="the folder of a dataset as downloaded; may be given several times")
]


class _OneSentence(typer.core.TyperGroup):
    """Prints a :class:`DfnbError` in one line and exits with 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except DfnbError as error:
            typer.echo(f"dfnb: {error}", err=True)
            raise typer.Exit(1) from None


app.info.cls = _OneSentence


@app.callback()
def _main() -> None:
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("dfnb").setLevel(logging.INFO)


@app.command()
def run(
    profile: ProfileName = "smoke",
    cores: Annotated[int, typer.Option(help="jobs at the same time; 0: as many as there are cores")] = 0,
) -> None:
    """Run a profile through papermill (by Snakemake), then show the main table.

    What is done is not done again; after an interruption the same command goes on where it was.
    """
    import torch

    from dfnb import jobs

    todo = [job for job in jobs.jobs(profile) if not job.done()]
    typer.echo(f"profile {profile}: {f'{len(todo)} jobs to do' if todo else 'all is done'}")
    for job in todo:
        job.record.unlink(missing_ok=True)
    gpus = torch.cuda.device_count() or 999  # one training at a time on each GPU
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(core.find("workflow") / "Snakefile"),
        "-d",
        str(core.home()),
    ]
    command += ["--cores", str(cores or "all"), "--resources", f"gpu={gpus}", "--config", f"profile={profile}"]
    command += ["--rerun-incomplete", "--rerun-triggers", "mtime", "--nolock", "--keep-going", "--quiet", "all"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if todo and subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode:
        logs = [str(job.log.relative_to(core.home())) for job in todo if not job.done() and job.log.exists()]
        raise DfnbError(
            f"profile {profile} did not end; the last output of what is missing stands in {', '.join(logs)}"
        )
    report = core.home() / "reports" / profile
    main_table = report / "tables" / "cross_dataset.md"
    typer.echo(main_table.read_text(encoding="utf-8") if main_table.exists() else "")
    typer.echo(f"report: {report / 'index.html'}")


@app.command()
def train(
    profile: ProfileName,
    job: Annotated[str, typer.Argument(help="a training of the profile; a wrong name lists those there are")],
) -> None:
    """Do one training of a profile (`dfnb run` does them all), resumed where it was interrupted."""
    from dfnb import jobs

    jobs.train_job(profile, job)


@app.command()
def report(profile: ProfileName = "demo") -> None:
    """Make all tables and figures of a report again from its score files, without a network or a dataset."""
    from dfnb import tables

    typer.echo(f"report: {tables.rebuild(profile)}")


@app.command()
def synth(
    preset: Annotated[str, typer.Argument(help="a dataset of the embedded benchmark: synth-a to synth-d")],
    portraits: Annotated[Path | None, typer.Option(help="folder of photographs to use instead of drawn faces")] = None,
    name: Annotated[str | None, typer.Option(help="name of the new dataset; default: the preset's")] = None,
    seed: Annotated[int | None, typer.Option(help="another seed draws other people")] = None,
    workers: Workers = None,
) -> None:
    """Make a dataset of the embedded benchmark, from drawn faces or from a folder of photographs."""
    from dfnb import synth

    changes: dict = {} if seed is None else {"seed": seed}
    if portraits:
        changes["portraits"] = str(portraits.expanduser().resolve())
    if changes and name is None:
        raise DfnbError(f"{preset} with other people is another dataset; give it a name with --name")
    _print_counts(synth.build(name or preset, synth.preset(preset, **changes), workers), name or preset)


@app.command()
def data(root: Roots = None) -> None:
    """Show what is there of each published dataset: prepared, present, partly (what is missing), absent (how to get it)."""
    from dfnb.data import sources

    for name, row in sources.overview(root or []).iterrows():
        what = row["what"].replace("\n", "\n" + " " * 31)
        typer.echo(f"{name:<18} {row['state']:<9}  {what}")


@app.command()
def prepare(
    what: Annotated[str, typer.Argument(help="a folder of videos or images, a dataset of `dfnb data`, or a .json")],
    name: Annotated[str | None, typer.Argument(help="name of the new dataset, datasets/<name>")] = None,
    root: Roots = None,
    label: Annotated[str | None, typer.Option(help="real or fake, for a folder without real/ and fake/")] = None,
    split: Annotated[str, typer.Option(help="train, val or test, for a folder without these")] = "test",
    crops: Annotated[bool, typer.Option(help="the images of the folder are faces: use them where they lie")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: size, scale, frames_per_video, detect_every, …; may be several"),
    ] = None,
    workers: Workers = None,
) -> None:
    """Prepare a dataset: find, follow and crop faces. Exits with 2 when something is missing or could not be used.

    `dfnb prepare faceforensics-c23 --root FOLDER` takes a published dataset as it was downloaded, `dfnb prepare FOLDER NAME`
    videos or images sorted into [train,val,test/]{real,fake/<method>,mask/<method>}/, `dfnb prepare FILE.json NAME --root
    FOLDER` a tree of DeepfakeBench. Killed at any moment, the same command goes on where it was.
    """
    from dfnb.data import prepare, sources

    values: dict[str, Any] = {}
    missing: list[str] = []
    if what in core.described("real"):
        manifest = sources.load(what)
        if not root:
            raise DfnbError(f"say where {what} lies: dfnb prepare {what} --root FOLDER; {manifest.access}")
        found, missing = sources.scan(manifest, root)
        values, name = manifest.prepare, name or what
        if not found:
            raise DfnbError(f"{root[0]} holds nothing of {what}: {'; '.join(missing) or manifest.layout}")
    elif what.endswith(".json") and root:
        found, missing = prepare.deepfakebench_sources(Path(what), root[0])
    else:
        found = prepare.folder_sources(Path(what), label, split, crops)
    if name is None:
        raise DfnbError(f"give the dataset made of {what} a name: dfnb prepare {what} NAME")
    checked = prepare.Settings.check({**values, **_changes(settings or [])}, "dfnb prepare")
    record = prepare.prepare(name, found, checked, workers=workers, missing=missing)
    _print_counts(record, name)
    typer.echo(f"\nframes without a face, by class:\n{prepare.dropouts(record).to_string()}")
    problems = [f"missing: {sentence}" for sentence in record["missing"]]
    problems += [f"not used: {entry['video']} ({entry['file']}): {entry['reason']}" for entry in record["quarantine"]]
    if problems:
        typer.echo("\n".join(problems), err=True)
        raise typer.Exit(2)


def _changes(settings: list[str]) -> dict[str, Any]:
    """The settings given as KEY=VALUE; values are read as YAML."""
    if wrong := [text for text in settings if "=" not in text]:
        raise DfnbError(f"--set {wrong[0]}: write KEY=VALUE, as in --set size=256")
    return {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in settings)}


@annotate.command("export")
def export_candidates(
    run: Annotated[
        str, typer.Argument(help="a run of a paper that chooses candidates: its folder, or its id under runs/")
    ],
    folder: Annotated[Path, typer.Argument(help="new folder for the pictures and their index")],
    share: Annotated[float, typer.Option(help="so many masks, as a share of the training frames", min=0, max=1)] = 0.03,
) -> None:
    """Write the pictures whose masks are wanted; paint each one's mask beside it, white where forged."""
    from dfnb.jobs import export_candidates
    from dfnb.train import Run

    index = export_candidates(Run.open(run), folder, share)
    typer.echo(f"{folder}: {len(index)} pictures; paint {index['mask'].iloc[0]} for {index['image'].iloc[0]} and so on")


@annotate.command("import")
def import_masks(folder: Annotated[Path, typer.Argument(help="the exported folder, with masks painted")]) -> None:
    """Check the painted masks and import them; a mask that cannot be used is named, and nothing is imported then."""
    from dfnb.data import annotate

    name, n, of = annotate.load(folder)
    typer.echo(f'{n} of {of} masks imported; train LAE with annotations = "{name}"')


def _print_counts(record: dict, name: str) -> None:
    from dfnb.data.frames import dataset_folder

    for part, n in record["n"].items():
        typer.echo(f"{part}: {n['frames']} frames of {n['videos']} videos")
    typer.echo(f"{dataset_folder(name)}, fingerprint {record['fingerprint']}")


if __name__ == "__main__":
    app()
