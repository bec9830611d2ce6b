"""Start or end the MLflow run of a whole pipeline; the stages' runs are nested in it."""

from __future__ import annotations

import argparse
from pathlib import Path

from crossmoda.data import write_text
from crossmoda.engines import end_parent_run, start_parent_run


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["start", "end"])
    parser.add_argument("--tracking_uri", required=True, help="e.g. sqlite:////absolute/path/mlruns.db, or a server")
    parser.add_argument("--experiment_name", default="crossmoda", help="one for each recipe (%(default)s)")
    parser.add_argument("--run_name", default="pipeline", help="name of the run (%(default)s)")
    parser.add_argument(
        "--run_file", required=True, type=Path, metavar="FILE", help="start writes the run's id there, end reads it"
    )
    parser.add_argument("--failed", action="store_true", help="it ended early")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Start or end the run."""
    arguments = parse_arguments(argv)
    if arguments.what == "start":
        run = start_parent_run(arguments.tracking_uri, arguments.experiment_name, arguments.run_name)
        write_text(run + "\n", arguments.run_file)
    else:
        end_parent_run(arguments.tracking_uri, arguments.run_file.read_text().strip(), arguments.failed)


if __name__ == "__main__":
    main()
