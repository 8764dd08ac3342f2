"""The command ``dfnb``. Torch and pandas are imported inside the commands: they take seconds."""

import logging
import os
import signal
import sys
import textwrap
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from dfnb.extras import explain_missing
from facesets import files
from facesets.checks import DfnbError, check_name, explained, parse_yaml, suggestion

ProfileName = Annotated[str, typer.Argument(help="A file of notebooks/profiles, such as demo.")]

commands = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are no markup
)


def show_version(asked: bool) -> None:
    """Print the version and end, where ``--version`` is typed."""
    if asked:
        typer.echo(f"dfnb {version('dfnb')}")
        raise typer.Exit


@commands.callback()
def options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Re-implement papers on deepfake detection: make data, run a profile, make its report."""


def app() -> None:
    """Run the command that was typed.

    A :class:`DfnbError` becomes one line and status 1, as does a missing extra of the package; so
    does whatever else is raised, whose traceback is kept for ``dfnb doctor``.
    """
    # Remarks of libraries are not for users: joblib's processes would count what they had open.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    # force replaces a handler that one may have set.
    logging.basicConfig(format="%(message)s", level=logging.ERROR, force=True)
    logging.getLogger("dfnb").setLevel(logging.INFO)
    try:
        with explain_missing():
            commands()
    except DfnbError as error:
        sys.exit(f"dfnb: {error}")
    except Exception as error:  # of a library, or a mistake of ours
        path = files.write_bytes(last_error(), traceback.format_exc().encode())
        text = textwrap.shorten(f"{type(error).__name__}: {error}", 400)
        sys.exit(f"dfnb: {text} (the traceback is in {path})")


def last_error() -> Path:
    """The file with the last traceback of a command."""
    return files.home() / "cache" / "last-error.txt"


@commands.command()
def run(
    profile: ProfileName = "smoke",
    cores: Annotated[int, typer.Option(min=0, help="Calls at the same time; 0: one per core.")] = 0,
    main: Annotated[bool, typer.Option("--main", help="Leave out all variants.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run as commands of papermill.")
    ] = False,
    snakemake: Annotated[
        list[str] | None, typer.Argument(help="After --, options of Snakemake: -- --retries 2.")
    ] = None,
) -> None:
    """Run a profile: its trainings, its notebooks, its report.

    What has ended is not repeated. After an interruption, the same command continues.
    """
    from dfnb.running import workflow

    workflow.run(profile, cores, main, dry_run, snakemake or ())


@commands.command(hidden=True)  # for the Snakefile; a reader has papermill itself
def call(
    profile: ProfileName,
    notebook: Annotated[str, typer.Argument(help="Such as 04_locate_and_verify.")],
    output: Annotated[Path, typer.Argument(help="The executed notebook.")],
    log: Annotated[Path, typer.Argument(help="Of what it prints.")],
    variant: Annotated[str, typer.Argument(help="Of a paper's notebook, such as main.")] = "",
    seed: Annotated[int, typer.Argument(help="Such as 30.")] = 0,
    fold: Annotated[int, typer.Argument(help="0: the training set has none.")] = 0,
    whole: Annotated[bool, typer.Option("--whole", help="Also what follows the training.")] = False,
) -> None:
    """Execute one call of a profile by papermill; an error is one sentence."""
    from dfnb.running import execution

    changes = execution.injected(profile, variant, seed, fold)
    execution.execute(notebook, output, log, changes, whole)


@commands.command()
def report(
    profile: Annotated[str, typer.Argument(help="A folder of reports/.")] = "demo",
    paper: Annotated[
        bool, typer.Option("--paper", help="Execute notebook 07, too, for its figures and tables.")
    ] = False,
) -> None:
    """Make a report again from its stored scores: results, notebook and page.

    This needs neither a network nor a dataset. The report's folder paper/ has all figures as PDF
    and SVG in one and two columns, all tables as LaTeX, and captions as text; the numbers of each
    table stand as CSV in tables/.
    """
    folder = files.report_folder(profile)
    if not (folder / "scores").exists():  # rebuild would make the folder of a misspelled name
        raise DfnbError(f"there is no report {folder}")
    from dfnb.running import execution
    from dfnb.store import reports

    typer.echo(f"report: {execution.rebuild(profile, paper)}")
    if paper:
        typer.echo(f"paper: {reports.paper_folder(profile)}")


@commands.command()
def published() -> None:
    """Print what the papers report as one table, as Markdown and as LaTeX with BibTeX keys."""
    from dfnb.results.published import as_latex, as_markdown

    typer.echo(f"{as_markdown()}\n{as_latex()}", nl=False)


@commands.command()
def synth(
    preset: Annotated[str, typer.Argument(help="A dataset, such as smoke-b.")],
    portraits: Annotated[
        Path | None, typer.Option(help="A folder of photographs to use in place of its faces.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the new dataset; by default PRESET.")] = None,
) -> None:
    """Make a dataset of forged portraits.

    PRESET is a dataset of the benchmark, such as synth-a. It is made from the generated portraits
    that ship or, with --portraits FOLDER, from the photographs in that folder: that is another
    dataset, so also give it a --name. Give each person a folder in it; without folders, each file
    counts as a person. Datasets whose names begin with ff-like use photographs, which are
    downloaded unless --portraits is given.

    Photographs without a usable face are listed, and the exit status is 0 all the same.
    """
    signal.signal(signal.SIGINT, _stop)
    from facesets import embedded, manifests, photographs, sources

    name = name or preset
    manifests.refuse_taken(name, preset)
    changes = {"portraits": str(portraits.expanduser())} if portraits else {}
    settings = sources.preset(preset, **changes)
    record = embedded.build(name, settings)
    if photographs.is_folder(settings.portraits):
        typer.echo(photographs.count(settings.portraits))
    _print_record(record, name)


@commands.command()
def doctor() -> None:
    """Print what a report of a problem needs: versions, device, home and papers."""
    from facesets import records

    about = {**records.environment(), "home": files.home()}
    packages = about.pop("packages")
    if "torch" in packages:
        from dfnb import device, papers

        about |= {"workers": device.workers(), "papers": ", ".join(papers.modules())}
    if last_error().exists():
        about["last error"] = last_error()
    for name, value in {**packages, **about}.items():
        typer.echo(f"{name}: {value}")


@commands.command()
def data() -> None:
    """List the published datasets: how to get each, its terms, and the size of the download.

    First those that `dfnb fetch NAME` downloads, then those that anyone can download by hand, then
    those that the authors give on request, and what is made of files of your own.
    """
    from facesets import published

    for how, group in published.overview().groupby("how", sort=False):
        typer.echo(f"\n{how}")
        for row in group.itertuples():
            typer.echo(f"- {row.Index}\n  access: {row.access}")
            for fact in ("terms", "space"):
                if text := getattr(row, fact):
                    typer.echo(f"  {fact}: {text}")


@commands.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A dataset of `dfnb data`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Accept the terms, in a script.")] = False,
) -> None:
    """Download a published dataset that needs no form.

    Its licence and terms are shown first, and you are asked once whether you accept them. The files
    are written to downloads/NAME in your home, where `dfnb prepare NAME` finds them. After an
    interruption, the same command downloads the files that are missing.
    """
    signal.signal(signal.SIGINT, _stop)
    from facesets import fetch, published

    dataset = published.load_manifest(name)
    if not dataset.fetch:
        raise DfnbError(f"{name} cannot be downloaded by a command; access: {dataset.access}")
    size = files.size_in_words(dataset.fetch.bytes)
    typer.echo(f"{name}: {size}\naccess: {dataset.access}\nterms: {dataset.terms}")
    accepted = fetch.download_folder(name) / ".accepted"  # the terms that were accepted
    if not accepted.exists() or accepted.read_text(encoding="utf-8") != dataset.terms:
        if not yes:
            _ask(f"Do you accept these terms, and download {size}?", name)
        files.write_bytes(accepted, dataset.terms.encode())
    typer.echo(f"{fetch.fetch_dataset(name, dataset.fetch)} is complete; next: dfnb prepare {name}")


def _ask(question: str, name: str) -> None:
    """Ask whether to download the dataset ``name``; raises :class:`DfnbError` unless it is yes."""
    try:
        answer = typer.confirm(question)
    except typer.Abort:  # also where nobody can answer, as in a script
        answer = False
    if not answer:
        raise DfnbError(
            f"the terms of {name} were not accepted, so nothing was downloaded; in a script, "
            "--yes accepts them"
        )


@commands.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A dataset of `dfnb data`, a folder, or a CSV.")],
    name: Annotated[
        str | None, typer.Argument(help="Of the new dataset; by default that of SOURCE.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder of a download, or of the videos of a CSV.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, such as size=256; repeatable.")
    ] = None,
    one_class: Annotated[
        bool, typer.Option("--one-class", help="Accept real or fake videos alone.")
    ] = False,
    splits: Annotated[
        list[str] | None, typer.Option(help="Only this: train, val or test; repeatable.")
    ] = None,
    reencode: Annotated[
        int | None,
        typer.Option(
            metavar="CRF", min=0, max=51, help="Encode all videos again alike first, as H.264."
        ),
    ] = None,
) -> None:
    """Prepare a dataset: find faces and crop them.

    SOURCE is one of three things. (1) The name of a published dataset of `dfnb data`; --root is the
    folder of its download, by default that of `dfnb fetch`. (2) A folder with the sub-folders
    real/, fake/METHOD/ and, where they exist, mask/METHOD/ and original/METHOD/, all directly or
    all below train/, val/ and test/; the images of a clip lie in a folder of its own. (3) A CSV in
    UTF-8 with the columns path, label (real or fake) and any of video, method, split, identity,
    cluster, mask and original, separated by commas; paths are relative to its folder, and a video
    is named by its path below --root, by default the same folder. docs/your-data.md has the lines
    of pandas that write it for other folders and lists. NAME is the name of the new dataset, by
    default that of SOURCE.

    --set KEY=VALUE changes a setting, such as size, and may be repeated. --one-class accepts real
    or fake videos alone. --splits test prepares that split alone, and may be repeated; without it,
    the dataset has all splits. Videos that are there already are not prepared again. --reencode 23
    encodes all videos, real and fake, again as H.264 at this constant rate factor before faces are
    cut, so that the compression does not tell them apart. After an interruption, the same command
    continues.

    The exit status is 0 when the dataset can be used, even if files were missing or could not be
    used: they are printed, and listed in its quarantine.csv. It is 1 when it cannot be used.
    """
    signal.signal(signal.SIGINT, _stop)
    from facesets import manifests, prepare, published
    from facesets.videos import summary

    # A shell leaves the ~ of --root=~/clips to the program.
    source, root = str(Path(source).expanduser()), root and root.expanduser()
    if name is None:  # a folder's name may have a dot, as in celeb.v2
        name = Path(source).name if Path(source).is_dir() else Path(source).stem
    check_name(name, "dfnb prepare NAME")
    manifests.refuse_taken(name, source)
    values = {}
    missing = []  # sentences about what is missing or left out
    if source in [*manifests.published_names(), *manifests.broken_names()]:
        values.update(published.load_manifest(source).prepare)  # the settings of its manifest
        folder = root or published.default_root(source)  # in which the videos are found
        videos, missing = published.scan(source, folder)
    else:
        folder = Path(source) if Path(source).is_dir() else None
        videos = _listed_videos(Path(source), root)
    with explained("--set", "YAML", "write KEY=VALUE, as in --set size=256"):
        for setting in settings or []:  # KEY=VALUE is read as the YAML mapping KEY: VALUE
            values.update(parse_yaml(setting.replace("=", ": ", 1)))
    if reencode is not None:
        values["reencode"] = reencode
    checked = prepare.Settings.check(values, "dfnb prepare --set")
    for problem in missing:
        typer.echo(problem, err=True)
    typer.echo(summary(videos))
    chosen = splits or ()
    record = prepare.prepare(
        name, videos, checked, one_class=one_class, splits=chosen, source=folder
    )
    _print_record(record, name)


def _listed_videos(source: Path, root: Path | None) -> list:
    """The :class:`~facesets.videos.Video` list of SOURCE: a CSV, or a folder of sorted files.

    In a CSV, videos are named by their paths below ``root``; a folder is its own root.
    """
    from facesets import manifests, videos

    if source.is_dir():
        if root:
            raise DfnbError(
                f"--root has no effect for {source}: a folder is its own root; leave it out"
            )
        return videos.read_folder(source)
    if not source.is_file():
        known = suggestion(str(source), manifests.published_names())
        raise DfnbError(
            f"there is no file or folder {source}, and no such dataset in `dfnb data`{known}"
        )
    return videos.read_csv(source, root or source.parent)


def _stop(*_: Any) -> None:
    """Stop at once on Ctrl-C; an exception would wait for the workers, which end by themselves."""
    os.write(2, b"\nstopping; the same command continues\n")  # 2: standard error
    os._exit(130)  # what shells report after Ctrl-C: 128 + SIGINT


def _print_record(record: dict[str, Any], name: str) -> None:
    """Print what the record of a dataset says: its counts, fingerprint, losses and unused files.

    Losses are those of :func:`facesets.prepare.dropouts`. Of files that could not be used the
    reason is printed, to standard error, and so are photographs that are in two splits.
    """
    from facesets import prepare, videos

    for kind, counts in record["n"].items():  # "split/method"
        typer.echo(f"{kind}: {counts['frames']} frames of {counts['videos']} videos")
    typer.echo(f"{files.dataset_folder(name)}, fingerprint {record['fingerprint']}")
    if "faces" in record:  # a dataset of dfnb prepare
        losses = prepare.dropouts(record).to_string()
        typer.echo(f"\nvideos and frames that were lost, by split and method:\n{losses}")
    # The quarantine of a dataset lists the files that could not be used.
    for problem in prepare.reasons_of(record.get("quarantine", [])):
        typer.echo(problem, err=True)
    if repeated := [" and ".join(pair) for pair in record.get("repeated", [])]:  # photographs
        for problem in videos.sentences({"nearly the same picture in two splits": repeated}):
            typer.echo(problem, err=True)


if __name__ == "__main__":
    app()
