"""Answers Nexmark queries over a file of events, or measures them beside Flink SQL.

    python bench/nexmark --data events.jsonl.gz --out answers --queries q0,q5 --workers 2
    scripts/bench nexmark --against flink --events 1000000 --parallelism 1,2

The first writes ``answers/q0.jsonl`` and so on: the rows that stand at the end, as compact JSON with times in
milliseconds since 1970, sorted as text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

if not __package__:  # run as a folder: the folders beside it are then not on the path
    sys.path[0] = str(Path(__file__).parents[2])

from bench.job import BenchError
from bench.nexmark.answers import write_answers
from bench.nexmark.comparison import compare
from bench.nexmark.queries import QUERIES


@click.command(help=__doc__)
@click.option("--queries", default=",".join(QUERIES), metavar="Q[,Q]", help="Which queries; all when left out.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="The file of events to be answered over.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write the answers to.")
@click.option("--workers", default=1, show_default=True, help="Workers of a run that writes answers.")
@click.option("--against", default="", metavar="flink", help="Whom to measure Millstream beside.")
@click.option("--events", default=1_000_000, show_default=True, help="Events of a measured run.")
@click.option("--parallelism", default="1", show_default=True, metavar="N[,N]", help="Workers of a measured run.")
@click.option("--repeat", default=3, show_default=True, help="Measured runs of each query; the median counts.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write what was measured to this file.")
def main(
    queries: str, data: Path | None, out: Path | None, workers: int, against: str, events: int, parallelism: str,
    repeat: int, json_path: Path | None,
) -> None:  # fmt: skip
    names = queries.split(",")
    if unknown := [name for name in names if name not in QUERIES]:
        raise click.BadParameter(f"no query {unknown[0]!r}; there are {', '.join(QUERIES)}", param_hint="--queries")
    if (data is None) != (out is None):
        raise click.UsageError("--data and --out go together: the events, and where the answers are written")
    try:
        if data is not None and out is not None:
            write_answers(data, out, names, workers=workers)
        else:
            compare(names, events, [int(n) for n in parallelism.split(",")], repeat, against == "flink", json_path)
    except BenchError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
