"""The ``dfnb`` command: make data, run a profile, show its table."""

import logging
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
import yaml

from dfnb import core

ProfileName = Annotated[str, typer.Argument(help="a file of notebooks/profiles: smoke, demo, development, …")]
Cores = Annotated[int, typer.Option(min=0, help="jobs at the same time; 0: as many as there are cores")]
Workers = Annotated[int | None, typer.Option(min=1, max=1000, help="processes; default: one a core")]
Roots = Annotated[list[Path] | None, typer.Option(exists=True, file_okay=False, help="a dataset or above; repeatable")]
Links = Annotated[bool, typer.Option("--links", help="follow symbolic links to folders")]


class _Group(typer.core.TyperGroup):
    """Shows what the package logs as it comes; prints a :class:`DfnbError` in one line and exits with 1."""

    def invoke(self, ctx: typer.Context) -> object:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # letters that the locale does not have
        logging.basicConfig(format="%(message)s", force=True)
        logging.getLogger("dfnb").setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        except core.DfnbError as error:
            typer.echo(f"dfnb: {error}", err=True)
            raise typer.Exit(1) from None


def workflow(name: str) -> ModuleType:
    """A module of the folder ``workflow/``, which ships beside the package."""
    sys.path.insert(0, str(core.find("workflow")))
    return import_module(name)


app = typer.Typer(cls=_Group, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def run(profile: ProfileName = "smoke", cores: Cores = 0) -> None:
    """Run a profile through papermill (by Snakemake), then show the main table.

    What is done is not done again; after an interruption the same command goes on where it was.
    """
    workflow("run").run_profile(profile, cores)


@app.command()
def train(profile: ProfileName, job: str) -> None:
    """Do one training of a profile (`dfnb run` does them all), resumed where it was interrupted.

    A wrong JOB lists those there are.
    """
    from dfnb import jobs

    jobs.train_job(profile, job)


@app.command()
def score(files: list[Path], run: Annotated[str, typer.Option(help="a folder of runs/")], frames: int = 8) -> None:
    """Score pictures and clips of your own by a trained detector, with a panel of its maps per file, in the current folder.

    Of each file the face that is seen longest, on as many --frames. Exits with 2 when a file could not be used.
    """
    from dfnb import figures, papers, train
    from dfnb.attribution import measures

    figures.style()
    detector, failed = papers.Run.open(run), 0
    network = detector.network().to(train.DEVICE)
    for file in files:
        try:
            faces = measures.picture(file, detector.parameters["train_set"], frames)
            fake = train.predict(network, faces, detector.settings)["score"].mean()
            panel = Path(f"{file.stem[:60]}-{Path(faces.attrs['folder']).name}-{detector.id}.png")
            with core.atomic(panel) as temporary:
                figures.frames_panel(detector, faces, [*network.maps(), "Grad-CAM"]).savefig(temporary)
            typer.echo(f"{file}: P(fake) {fake:.2f}, mean of {len(faces)} frames; maps: {panel}")
        except core.DfnbError as error:
            typer.echo(f"not scored: {error}", err=True)
            failed = 2
    threshold = detector.record["validation_threshold"]["threshold"]
    typer.echo(f"{threshold:.2f} is exceeded by 5 % of the detector's own real validation frames. No score is a proof.")
    raise typer.Exit(failed)


@app.command()
def cost(profile: ProfileName = "study") -> None:
    """Tell beforehand what the trainings of a profile take on this machine, from a few timed steps: hours, memory, disk."""
    workflow("cost").tell(profile)


@app.command()
def report(profile: ProfileName = "demo") -> None:
    """Make all tables and figures of a report again from its score files, without a network or a dataset."""
    from dfnb import page

    typer.echo(f"report: {page.rebuild(profile)}")


@app.command("compare")
def compare_reports(first: ProfileName, second: ProfileName) -> None:
    """Did a change help? Video AUC of the first report minus the second's, line by line, paired on the test sets they share."""
    from dfnb import compare, scores, tables

    rows = compare.between(scores.Report(first), scores.Report(second))
    spec = tables.Spec(lead="", where={"minus": ".+"}, index=("line", "minus", "test_set"), columns=())
    typer.echo(f"{spec.table(rows).to_string()}\n{tables.conclusion(rows)}")


@app.command()
def synth(
    preset: Annotated[str, typer.Argument(help="a dataset of the embedded benchmark: synth-a to synth-d")],
    portraits: Annotated[Path | None, typer.Option(help="folder of photographs", exists=True, file_okay=False)] = None,
    name: Annotated[str | None, typer.Option(help="name of the new dataset; default: the preset's")] = None,
    workers: Workers = None,
) -> None:
    """Make a dataset of the embedded benchmark, from drawn faces or from a folder of photographs.

    Exits with 2 when a photograph has no usable face, or a folder lies among them.
    """
    from dfnb import synth

    if portraits and name is None:
        raise core.DfnbError(f"{preset} with other people is another dataset; give it a name with --name")
    changes = {"portraits": str(portraits.expanduser().resolve())} if portraits else {}
    tell(synth.build(name or preset, synth.preset(preset, **changes), workers), name or preset)


@app.command()
def data(root: Roots = None, links: Links = False) -> None:
    """Show what is there of each published dataset: prepared, present, partly (what is missing), absent (how to get it)."""
    from dfnb.data import sources

    for name, row in sources.overview(root or [], links).iterrows():
        what = row["what"].replace("\n", "\n" + " " * 31)
        typer.echo(f"{name:<18} {row['state']:<9}  {what}")


@app.command()
def prepare(
    what: Annotated[str, typer.Argument(help="a folder of videos or images, or a dataset of `dfnb data`")],
    name: Annotated[str | None, typer.Argument(help="name of the new dataset; default: that of WHAT")] = None,
    root: Roots = None,
    label: Annotated[str | None, typer.Option(help="real or fake, for a folder without real/ and fake/")] = None,
    crops: Annotated[bool, typer.Option(help="the images of the folder are faces: use them where they lie")] = False,
    links: Links = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: size, …; may be several")] = None,
    workers: Workers = None,
) -> None:
    """Prepare a dataset: find, follow and crop faces. Exits with 2 when something is missing or could not be used.

    `dfnb prepare faceforensics-c23 --root FOLDER` takes a published dataset as it was downloaded, `dfnb prepare FOLDER NAME`
    videos or images sorted into [train,val,test/]{real,{fake,mask,original}/<method>}/. Killed at any moment, the same command
    goes on where it was.
    """
    from dfnb.data import prepare, sources

    values, people = {}, ""
    if what in core.described("real"):
        manifest = sources.load(what)
        places, found, missing = sources.located(manifest, root or [], links)
        values, people = manifest.prepare, manifest.people
        if not found:
            facts = "; ".join(filter(None, [*missing, manifest.layout, manifest.access]))
            raise core.DfnbError(f"nothing of {what} is there; say where: dfnb prepare {what} --root FOLDER; {facts}")
        typer.echo(f"{what} is read from {', '.join(map(str, places))}")
    else:
        found, missing = prepare.folder_sources(Path(what), label, crops, links)
    name = name or Path(what).stem
    for text in settings or []:
        with core.reading(f"--set {text}", "here", "write KEY=VALUE, as in --set size=256"):
            key, value = text.split("=", 1)
            values = values | {key: yaml.load(value, core.Loader)}
    checked = prepare.Settings.check(values, "dfnb prepare --set KEY=VALUE")
    tell(prepare.prepare(name, found, checked, workers=workers, missing=missing, people=people), name)


def tell(record: dict, name: str) -> None:
    """Print what a dataset holds and what was lost on the way; exit with 2 when something is missing or was not usable."""
    from dfnb.data import prepare

    for part, n in record["n"].items():
        typer.echo(f"{part}: {n['frames']} frames of {n['videos']} videos")
    typer.echo(f"{core.home() / 'datasets' / name}, fingerprint {record['fingerprint']}")
    if "faces" in record:
        typer.echo(f"\nframes without a face, by class:\n{prepare.dropouts(record).to_string()}")
    missing, unused = record.get("missing", []), record.get("quarantine", [])
    problems = [f"missing: {sentence}" for sentence in missing]
    problems += [f"not used: {each.get('video', 'portrait')} ({each['file']}): {each['reason']}" for each in unused]
    typer.echo("\n".join([*problems, f"in all {len(missing)} missing, {len(unused)} unused"]), err=True)
    if missing or not all(entry.get("usable") for entry in unused):
        raise typer.Exit(2)


if __name__ == "__main__":
    app()
