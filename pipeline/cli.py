"""The command line: ``dlpipe COMMAND ...``; a command's module is imported when called."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pipeline import __version__

EXIT_INTERNAL = 70
EXIT_SIGINT = 130

_CONFIG = "the YAML file of the run"
_OVERRIDES = "settings in YAML path spelling: stages.train.epochs=3"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no error reaches the user as a traceback."""
    # Threads of OpenMP that spin while they wait starve each other as soon as the machine has other
    # work; it is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = parse(arguments)
    try:
        command = import_module(f"pipeline.commands.{options.command}")
        code: int = command.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_SIGINT
    except BrokenPipeError:  # `dlpipe doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the outermost frame: a message for the user, the trace for us
        return _report(error)
    return code


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; overrides may stand before, between and after options."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    late = [word for word in rest if not word.startswith("-")]
    if rest != late or (late and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        options.overrides = [*options.overrides, *late]
    return options


def build_parser() -> argparse.ArgumentParser:
    """Describe every command."""
    parser = argparse.ArgumentParser(
        prog="dlpipe",
        description="From a labelled data set to a served, quantized, verified model, in one YAML.",
        epilog="exit codes: 0 done, 1 a stage failed, 2 wrong configuration, 3 a gate did not "
        "hold, 4 the run folder is in use, 75 stopped by a signal and ready to go on",
    )
    parser.add_argument("--version", action="version", version=f"dlpipe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run the chain; what is unchanged is served from cache")
    _config(run)
    run.add_argument("--from", dest="first", metavar="STAGE", help="begin at this stage")
    run.add_argument("--until", dest="last", metavar="STAGE", help="end after this stage")
    run.add_argument("--force", action="store_true", help="run also what could come from cache")
    run.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="try the whole chain in seconds, in a run folder of its own",
    )

    stage = commands.add_parser("stage", help="run one stage from the artifacts of an earlier run")
    stage.add_argument("stage", metavar="STAGE", help="its name in the YAML")
    _config(stage)

    plan = commands.add_parser("plan", help="show what would run, what is cached, and why")
    _config(plan)
    plan.add_argument("--from", dest="first", metavar="STAGE", help="begin at this stage")
    plan.add_argument("--until", dest="last", metavar="STAGE", help="end after this stage")
    plan.add_argument("--force", action="store_true", help="as for run")
    plan.add_argument("--devices", type=int, help="instead: what so many devices could do")
    plan.add_argument("--memory", metavar="SIZE", help="with --devices: of each, such as 16GB")

    _config(commands.add_parser("check", help="validate a configuration and resolve its backends"))
    commands.add_parser("doctor", help="show the machine and which backends can run on it")
    schema = commands.add_parser("schema", help="print the JSON Schema of the configuration")
    schema.add_argument("--output", type=Path, help="write it to this file instead")
    init = commands.add_parser("init", help="write a commented starter configuration")
    init.add_argument("path", type=Path, nargs="?", default=Path("dlpipe.yaml"))
    init.add_argument("--force", action="store_true", help="overwrite a file that is there")

    serve = commands.add_parser("serve", help="serve the model of a finished run until Ctrl-C")
    serve.add_argument("run", type=Path, help="the run's folder, or its name under runs/")
    serve.add_argument("--http-port", type=int, default=8000)
    serve.add_argument("--grpc-port", type=int, default=8001)
    report = commands.add_parser("report", help="write a run's HTML report again")
    report.add_argument("run", type=Path, help="the run's folder, or its name under runs/")
    compare = commands.add_parser("compare", help="show how two runs differ")
    compare.add_argument("run_a", type=Path)
    compare.add_argument("run_b", type=Path)
    for command in (run, stage, plan, serve, report, compare):
        command.add_argument(
            "--runs-dir", type=Path, default=Path("runs"), help="where runs lie (default: runs)"
        )
    return parser


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help=_CONFIG)
    parser.add_argument("overrides", nargs="*", metavar="path=value", help=_OVERRIDES)


def _report(error: Exception) -> int:
    from pipeline.errors import ConfigError, DlpipeError

    if isinstance(error, ConfigError) and len(error.problems) > 1:
        print(f"{len(error.problems)} problems:", file=sys.stderr)  # noqa: T201
    if isinstance(error, DlpipeError):
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)  # noqa: T201
        if os.environ.get("DLPIPE_DEBUG"):
            traceback.print_exception(error)
        return error.exit_code
    descriptor, path = tempfile.mkstemp(prefix="dlpipe-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    summary = f"internal error: {type(error).__name__}: {error}"
    print(f"{summary}\nThis is a bug in dlpipe; the trace is in {path}.", file=sys.stderr)  # noqa: T201
    return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
