"""The ``dfnb`` command: make data, run a profile, show its table."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfnb import files
from dfnb.settings import DfnbError, check_name, explained, parse_yaml

if TYPE_CHECKING:
    from dfnb.data.videos import Video

ProfileName = Annotated[str, typer.Argument(help="a file of notebooks/profiles: smoke, demo, …")]
Cores = Annotated[int, typer.Option(min=0, help="jobs at the same time; 0: one per core")]
Workers = Annotated[
    int | None, typer.Option(min=1, max=1000, help="processes; default: one per core")
]
Roots = Annotated[
    list[Path] | None,
    typer.Option(exists=True, file_okay=False, help="a dataset or above; repeatable"),
]


class _Group(typer.core.TyperGroup):
    """Shows what the package logs; ends with one line and status 1 on a :class:`DfnbError`."""

    def invoke(self, ctx: typer.Context) -> object:
        logging.basicConfig(format="%(message)s", force=True)
        logging.getLogger("dfnb").setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        except DfnbError as error:
            typer.echo(f"dfnb: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
)


@app.command()
def run(profile: ProfileName = "smoke", cores: Cores = 0) -> None:
    """Run all trainings and notebooks of a profile, then show the main table.

    What is done is not done again. After an interruption the same command goes on where it was.
    """
    from dfnb import workflow

    workflow.run(profile, cores)


@app.command()
def train(profile: ProfileName, job: str) -> None:
    """Do one training of a profile (`dfnb run` does them all), resumed where it was interrupted.

    A wrong JOB lists those there are.
    """
    from dfnb import jobs

    typer.echo(f"trained: {jobs.train_job(profile, job).folder}")


@app.command()
def score(
    images: list[Path],
    run: Annotated[str, typer.Option(help="a folder of runs/")],
    frames: Annotated[int, typer.Option(min=1, help="of each clip")] = 8,
) -> None:
    """Score images and clips of your own by a trained detector.

    Of each file the face that is seen longest is scored. A panel with the detector's maps is saved
    in the current folder. Exits with 2 when a file could not be used.
    """
    from dfnb import figures, pictures, runs, scoring
    from dfnb.data.frames import dataset_record
    from dfnb.data.prepare import prepare_picture

    figures.style()
    detector = runs.Run.open(run)
    network = detector.network().to(scoring.DEVICE)
    maps = [*network.maps(), "Grad-CAM"]
    crop = dataset_record(detector.parameters["train_set"])["parameters"]
    status = 0
    for image in images:
        panel = Path(f"{image.stem[:60]}-{detector.id}.png")
        try:
            faces = prepare_picture(image, crop, frames)
            score = scoring.predict(network, faces, detector.settings)["score"].mean()
            with files.atomic(panel) as temporary:
                pictures.frames_panel(detector, faces, maps).savefig(temporary)
        except DfnbError as error:
            typer.echo(f"not scored: {error}", err=True)
            status = 2
        else:
            typer.echo(f"{image}: P(fake) {score:.2f}, mean of {len(faces)} frames; maps: {panel}")
    threshold = detector.record["validation_threshold"]["threshold"]
    typer.echo(
        f"{threshold:.2f} is exceeded by 5 % of the detector's own real validation frames. "
        "No score is a proof."
    )
    raise typer.Exit(status)


@app.command()
def cost(profile: ProfileName = "study") -> None:
    """Estimate hours, memory and disk of a profile's trainings here, from a few timed steps."""
    from dfnb import cost

    typer.echo(cost.report(profile))


@app.command()
def report(profile: ProfileName = "demo") -> None:
    """Make results, tables and figures of a report again, without a network or a dataset."""
    from dfnb import page

    typer.echo(f"report: {page.rebuild(profile)}")


@app.command()
def synth(
    preset: Annotated[str, typer.Argument(help="a dataset of the embedded benchmark: synth-a, …")],
    portraits: Annotated[
        Path | None, typer.Option(help="folder of photographs", exists=True, file_okay=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the new dataset; default: the preset's")
    ] = None,
    workers: Workers = None,
) -> None:
    """Make a dataset of the embedded benchmark, from drawn faces or from a folder of photographs.

    Exits with 2 when a photograph has no usable face, or a folder lies among them.
    """
    from dfnb import synth

    name = name or preset
    changes = {}
    if portraits:
        if name == preset:
            raise DfnbError(f"{preset} with other people is another dataset; name it with --name")
        changes["portraits"] = str(portraits.expanduser().resolve())
    record = synth.build(name, synth.preset(preset, **changes), workers)
    _tell(record, name)


@app.command()
def data(root: Roots = None) -> None:
    """Show which published datasets are prepared, present, partly there or absent."""
    from dfnb.data import published

    for name, row in published.overview(root or []).iterrows():
        what = row["what"].replace("\n", "\n" + " " * 31)
        typer.echo(f"{name:<18} {row['state']:<9}  {what}")


@app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="a folder, a CSV of videos, or a dataset of `dfnb data`")
    ],
    name: Annotated[
        str | None, typer.Argument(help="name of the new dataset; default: that of SOURCE")
    ] = None,
    root: Roots = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: size, …; repeatable")
    ] = None,
    workers: Workers = None,
) -> None:
    """Prepare a dataset: find faces and crop them.

    SOURCE is a published dataset, searched for below --root; a CSV with the columns path, label,
    method, split, identity, cluster, mask and original, of videos below its folder or --root; or a
    folder sorted into [train,val,test/]{real,{fake,mask,original}/<method>}/, of which that CSV is
    written first. Exits with 2 when something is missing or could not be used. Killed, the same
    command goes on.
    """
    from dfnb.data import prepare, published

    name = check_name(name or Path(source).stem, "dfnb prepare NAME")
    values = _settings(settings or [])
    if source in files.described("real"):
        description = published.load(source)
        values = {**description.prepare, **values}
    checked = prepare.Settings.check(values, "dfnb prepare --set")
    videos, missing = _videos(source, name, root or [])
    record = prepare.prepare(name, videos, checked, workers=workers)
    _tell(record, name, missing)


def _videos(source: str, name: str, roots: list[Path]) -> tuple[list["Video"], list[str]]:
    """The videos of SOURCE, and sentences about what is missing; of a folder a CSV is written."""
    from dfnb.data import published, videos

    if source in files.described("real"):
        description = published.load(source)
        location = published.located(description, roots)
        if not location:
            remedy = f"{description.layout} {description.access}".strip()
            raise DfnbError(f"{source} is not below any --root; {remedy}")
        typer.echo(f"{source} is in {location.root}")
        return location.videos, location.problems
    file = Path(source)
    if file.suffix == ".csv":
        folder = roots[0] if roots else file.parent
        return videos.read_csv(file, folder), []
    listing = files.dataset_folder(name) / "videos.csv"
    problems = videos.write_csv(listing, file)
    typer.echo(f"the videos are listed in {listing}; edited, it is prepared by")
    typer.echo(f"    dfnb prepare {listing} {name} --root {source}")
    return videos.read_csv(listing, file), problems


def _settings(texts: list[str]) -> dict[str, Any]:
    """The values of ``--set KEY=VALUE``, read as YAML."""
    values = {}
    for text in texts:
        key, _, value = text.partition("=")
        with explained(f"--set {text}", "YAML", "write KEY=VALUE, as in --set size=256"):
            values[key] = parse_yaml(value)
    return values


def _tell(record: dict, name: str, missing: Sequence[str] = ()) -> None:
    """Print what a dataset holds and what was lost; exit with 2 where something was."""
    from dfnb.data import prepare

    for split, counts in record["n"].items():
        typer.echo(f"{split}: {counts['frames']} frames of {counts['videos']} videos")
    typer.echo(f"{files.dataset_folder(name)}, fingerprint {record['fingerprint']}")
    if "faces" in record:
        typer.echo(f"\nframes without a face, by class:\n{prepare.dropouts(record).to_string()}")
    problems = [f"missing: {sentence}" for sentence in missing]
    status = 2 if problems else 0
    for entry in record.get("quarantine", []):
        video = entry.get("video") or f"portrait ({entry['file']})"
        problems.append(f"not used: {video}: {entry['reason']}")
        if not entry.get("usable"):
            status = 2
    typer.echo("\n".join([*problems, f"in all {len(problems)} missing or unused"]), err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    app()
