"""The command line: parse, call, print. Results go to stdout, progress to stderr.

Exit status: 0 done; 1 no trial completed, or a check failed; 2 bad input; 130 interrupted and resumable.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sweeps.errors import InputError, TowersweepError, without_passwords

if TYPE_CHECKING:
    from sweeps.api import SweepResult
    from sweeps.driver import Listener

INTERRUPTED = 130


class OneLineErrors(click.Group):
    """Every expected error is one ``error:`` line on stderr, and never a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit with its status."""
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.ClickException as error:
            message = " ".join(error.format_message().split())
            _fail(f"{message[0].lower()}{message[1:]}", 2)
        except InputError as error:
            _fail(str(error), 2)
        except TowersweepError as error:
            _fail(str(error), 1)
        except (KeyboardInterrupt, click.Abort) as error:
            told = str(error.__cause__ or error)  # Click makes its own of a KeyboardInterrupt.
            _fail(f"interrupted; {told}" if told else "interrupted", INTERRUPTED)
        except BrokenPipeError:  # The reader of our output has gone, as in `towersweep status | head -1`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {without_passwords(message)}", err=True)
    sys.exit(status)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="towersweep", prog_name="towersweep")
def cli() -> None:
    """Find out why a towered batch-norm CNN stalls, and what cures it."""


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_folder = click.argument("folder", metavar="DIR")
_watching = [
    click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout."),
    click.option("--quiet", is_flag=True, help="No progress on stderr."),
    click.option("--address", metavar="ADDR", help="Run on the Ray cluster at this address."),
    click.option("--backend", default="ray", metavar="ray|inline", help="Where trials run (default ray)."),
]


def _with_watching(command: Any) -> Any:
    for option in reversed(_watching):
        command = option(command)
    return command


@cli.command()
@click.argument("sweep", default="digits")
@click.option("--out", metavar="DIR", help="The run folder to make (default runs/<name>).")
@click.option("--trajectories", type=int, metavar="N", help="How many training runs.")
@click.option("--time-budget", metavar="120s", help="How long: seconds, or like 90s, 10m, 1h30m.")
@click.option("--workers", type=int, metavar="N", help="How many trials at a time (default: what fits).")
@click.option("--seed", type=int, metavar="N", help="The sweep's seed.")
@click.option("--set", "overrides", multiple=True, metavar="section.key=value", help="Override a setting.")
@_with_watching
def launch(sweep: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Run a sweep. SWEEP is a TOML file or a built-in name (see `towersweep sweeps`); default `digits`."""
    from sweeps import api

    with _watch(as_json, quiet) as listener:
        result = api.launch(sweep, listener=listener, **options)
    return _conclude(result, as_json)


@cli.command()
@_folder
@click.option("--trajectories", metavar="N|+N", help="A new total, or so many more.")
@click.option("--time-budget", metavar="120s", help="A new time budget for the whole sweep.")
@_with_watching
def resume(folder: str, as_json: bool, quiet: bool, trajectories: str | None, **options: Any) -> int:
    """Go on with an interrupted sweep, or extend a finished one."""
    from sweeps import api

    with _watch(as_json, quiet) as listener:
        result = api.resume(folder, trajectories=_count(trajectories), listener=listener, **options)
    return _conclude(result, as_json)


def _count(text: str | None) -> int | str | None:
    """A plain number as an int; ``+N`` and everything else stays text, and is checked by ``resume``."""
    return int(text) if text is not None and text.isdigit() else text


@cli.command()
@_folder
@_json_option
def status(folder: str, as_json: bool) -> None:
    """Where a sweep stands, live or ended, and how large its run folder is."""
    from sweeps import api, summaries
    from sweeps.run_folder import RunFolder

    record, live = api.load_record(folder)
    size = RunFolder.open(Path(folder)).size()
    facts = summaries.status_facts(record, live=live, size=size)
    click.echo(json.dumps(facts, indent=2) if as_json else summaries.status_text(record, live=live, size=size))


@cli.command()
@_folder
def report(folder: str) -> None:
    """(Re)write report.json, trials.csv and report.html from what is stored."""
    from sweeps import api

    api.write_report(folder)
    for name in ("report.json", "trials.csv", "report.html"):
        click.echo(str(Path(folder) / name))


@cli.command()
@_folder
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free port.")
@click.option("--writable", is_flag=True, help="Allow changes (notes, deletions) from the browser.")
def view(folder: str, port: int, writable: bool) -> None:
    """Look at the study in a browser: optuna-dashboard, read-only, on 127.0.0.1."""
    from sweeps import inspection, viewer

    def ready(url: str) -> None:
        click.echo(f"{url}  (Ctrl-C to stop)")

    viewer.serve(inspection.study_storage(folder), port=port, writable=writable, ready=ready)


@cli.command()
@_folder
@click.option("--trial", type=int, metavar="N", help="Which trial (default: the best).")
@_json_option
def evaluate(folder: str, trial: int | None, as_json: bool) -> None:
    """Evaluate a kept checkpoint: {raw, averaged weights} x {batch, moving, re-estimated statistics}."""
    from sweeps import inspection, summaries

    found = inspection.evaluate(folder, trial)
    click.echo(json.dumps(found, indent=2) if as_json else summaries.evaluation_text(found))


@cli.command()
@_folder
@click.option("--trial", type=int, metavar="N", help="Which trial.")
def diagnose(folder: str, trial: int | None) -> NoReturn:
    """Say why a trial stalled, and the smallest change that cures it. Not yet in this version."""
    from sweeps.run_folder import RunFolder

    RunFolder.open(Path(folder))
    _fail("diagnose is not there yet; report.html names each trial's verdict", 1)


@cli.command()
@_json_option
def spaces(as_json: bool) -> None:
    """List the built-in search spaces."""
    from search_spaces import presets

    _listing({name: preset.description for name, preset in presets().items()}, as_json)


@cli.command()
@_json_option
def datasets(as_json: bool) -> None:
    """List the built-in data sets."""
    from sweeps import inspection

    _listing(inspection.datasets(), as_json)


@cli.command()
@_json_option
def sweeps(as_json: bool) -> None:
    """List the built-in sweeps."""
    from sweeps.config import builtin_sweeps

    _listing(builtin_sweeps(), as_json)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of a sweep file, for editors."""
    from sweeps.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@cli.command()
@click.argument("sweep", required=False)
@click.option("--no-run", is_flag=True, help="Train nothing: leave the readouts unchecked.")
@_json_option
def doctor(sweep: str | None, no_run: bool, as_json: bool) -> int:
    """Show what this machine offers, and what SWEEP would ask of it.

    With SWEEP, doctor trains for a few steps, at least three times, to check that the parameters which its
    trainable calls readouts leave training alone. If they do not, trials must not share a training run.

    Exit status 1 if SWEEP does not fit this machine, a readout changes training, or training fails or is not
    deterministic.
    """
    from sweeps import inspection, summaries

    with redirect_stdout(sys.stderr):  # What a trainable of one's own prints is no result of ours.
        facts = inspection.examine(sweep, run=not no_run)
    click.echo(json.dumps(facts, indent=2) if as_json else summaries.doctor_text(facts))
    sound = facts.get("readouts", {}).get("identical", True)
    return 0 if sound and not facts.get("shortages") else 1


def _listing(lines: dict[str, str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(lines, indent=2))
        return
    width = max(map(len, lines))
    for name, text in lines.items():
        click.echo(f"{name:<{width}}  {text}")


@contextmanager
def _watch(as_json: bool, quiet: bool) -> Iterator[Listener]:
    """The listeners that the options ask for. The live view only where stderr is a terminal."""
    from sweeps.progress import JsonLines, LiveProgress, PlainProgress, Together

    wanted: list[Listener] = [JsonLines(sys.stdout)] if as_json else []
    if quiet:
        yield Together(wanted)
    elif sys.stderr.isatty():
        from rich.console import Console

        with LiveProgress(Console(stderr=True)) as live:
            yield Together([*wanted, live])
    else:
        yield Together([*wanted, PlainProgress(sys.stderr)])


def _conclude(result: SweepResult, as_json: bool) -> int:
    from sweeps import summaries

    if as_json:
        click.echo(json.dumps({"event": "result", **summaries.status_facts(result.record, live=False)}))
    else:
        click.echo(summaries.result_text(result.record, result.folder))
    if result.interrupted:
        click.echo(f"interrupted; go on with: towersweep resume {result.folder}", err=True)
        return INTERRUPTED
    return 0


def main() -> NoReturn:
    """The console script."""
    sys.path.insert(0, str(Path.cwd()))  # A trainable of the user's own is usually a file right here.
    cli.main(prog_name="towersweep")
