"""Apache Flink SQL: a local mini cluster in one JVM, started here with the jars that the package apache-flink brings.

Tuned for throughput: mini-batches of 50,000 rows or 1 s, object reuse, heap state, no checkpoints. The JVM is warm: one
job that is not counted goes before the timed ones. What a job over 1,000 events costs there (planning, starting the
mini cluster) is reported as the fixed cost and taken off. W1 reads a memory-mapped columnar dump through a table
source of ours (java/), W2 and W3 use Flink's own file connector, one file for each subtask.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from bench import checksum, data
from bench.checksum import Checksum, Pane
from bench.job import FIXED_EVENTS, BenchError, Job, Outcome, Span, serve

JAVA = Path(__file__).parent / "java"
CLASSES = data.DIRECTORY / "flink-classes"
MEMORY = ["-Xmx4g", "-XX:+UseParallelGC"]  # of the collectors, the one with the most events/s here

# Flink reflects on the JDK's own classes; Java 17 asks for leave.
OPEN = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.net",
        "java.io",
        "java.nio",
        "java.text",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "sun.nio.ch",
    )
]

DUMP_TABLE = """
create table {name} (`key` string, ts timestamp(3), `value` double, watermark for ts as ts - interval '2' second)
with ('connector' = 'bench', 'path' = '{path}', 'events' = '{events}')
"""

JSON_TABLE = """
create table events (`key` string, `ts` bigint, `value` double, `at` as to_timestamp_ltz(`ts`, 3),
    watermark for `at` as `at` - interval '2' second)
with ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json')
"""

TEXT_TABLE = "create table texts (line string) with ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'raw')"

PANES_TABLE = """
create table panes (window_start timestamp(3), `key` string, `count` bigint, total double, mean double, top double)
with ({sink})
"""

WORDS_TABLE = "create table counts (word string, `count` bigint) with ('connector' = 'bench')"

PANES = """
select window_start, `key`, count(*), sum(`value`), avg(`value`), max(`value`)
from table(tumble(table events, descriptor({time}), interval '10' second))
group by window_start, window_end, `key`
"""

HELD = """
select window_start, `key`, count(*), sum(`value`), sum(`value`) / count(*), max(`value`)
from table(tumble(table events, descriptor(ts), interval '1' day))
group by window_start, window_end, `key`
"""

WORDS = "select word, count(*) from texts cross join unnest(split(line, ' ')) as words (word) group by word"

SESSIONS = """
select window_start, window_end, `key`, count(*), sum(`value`)
from table(session(table events partition by `key`, descriptor(ts), interval '5' second))
group by window_start, window_end, `key`
"""

HOPS = """
select window_start, `key`, count(*)
from table(hop(table events, descriptor(ts), interval '10' second, interval '60' second))
group by window_start, window_end, `key`
"""

PAIRS = """
select l.`key`, cast(l.ts as timestamp(3)), cast(r.ts as timestamp(3)), l.`value`, r.`value`
from lefts l join rights r
on l.`key` = r.`key` and r.ts between l.ts - interval '10' second and l.ts + interval '10' second
"""

ANSWERS = "create table answers with ('connector' = 'bench') as {query}"


def jars() -> str:
    """Flink's own jars, as the package brings them.

    Raises:
        BenchError: the package is not in this environment.
    """
    package = find_spec("pyflink")
    if package is None or package.origin is None:
        raise BenchError("apache-flink is not installed here; expected it from bench/peers/requirements.txt")
    return str(Path(package.origin).parent / "lib" / "*")


def compiled() -> Path:
    """Our table source and driver, compiled against Flink's jars when they changed."""
    sources, mark = sorted(JAVA.glob("*.java")), CLASSES / "compiled"
    if not mark.exists() or mark.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        CLASSES.mkdir(parents=True, exist_ok=True)
        command = ["javac", "-nowarn", "-cp", jars(), "-d", str(CLASSES), *map(str, sources)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"javac failed:\n{done.stderr}")
        mark.touch()
    return CLASSES


class Jvm:
    """One JVM that runs lists of statements, each so many times."""

    def __init__(self, parallelism: int, directory: Path) -> None:
        self._parallelism = parallelism
        self._directory = directory

    def rows(self, statements: Sequence[str]) -> Iterator[list[str]]:
        """The result rows of the last statement, a SELECT: the row's kind, then its fields."""
        output = self._directory / "rows.tsv"
        self._run([(1, statements)], str(output))
        with output.open() as file:
            for line in file:
                yield line.rstrip("\n").split("\t")

    def timed(self, runs: Sequence[tuple[int, Sequence[str]]]) -> list[tuple[Span, int]]:
        """Spans and rows of each run of the last statement, an INSERT."""
        spans = [line.split() for line in self._run(runs, "-") if line.startswith("span ")]
        return [(Span(float(began), float(ended)), int(rows)) for _, began, ended, rows in spans]

    def _run(self, runs: Sequence[tuple[int, Sequence[str]]], output: str) -> list[str]:
        scripts = []
        for i, (repeats, statements) in enumerate(runs):
            script = self._directory / f"job-{i}.sql"
            script.write_text("\n\n".join(statement.strip() for statement in statements))
            scripts += [str(repeats), str(script)]
        path = f"{compiled()}:{JAVA}:{jars()}"
        command = ["java", *OPEN, *MEMORY, "-cp", path, "FlinkBench", str(self._parallelism), output]
        done = subprocess.run([*command, *scripts], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"Flink failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout.splitlines()


def timed(job: Job, directory: Path, large: Sequence[str], small: Sequence[str]) -> Outcome:
    """Warm up, time the job, then time it over hardly any events in the same JVM."""
    found = Jvm(job.parallelism, directory).timed([(1 + job.repeats, large), (3, small)])
    runs, fixed = found[1 : 1 + job.repeats], [span.seconds for span, _ in found[1 + job.repeats :]]
    note = f"the first job of the cold JVM took {found[0][0].seconds:.1f} s and is not counted"
    return Outcome(runs[-1][1], [span for span, _ in runs], fixed_s=median(fixed), note=note)


def over_dump(
    query: str, checked: Callable[[Iterable[list[str]]], Checksum], job: Job, tables: Mapping[str, str]
) -> Outcome:
    """A query over dumps of streams, which share the events evenly.

    Args:
        tables: the name of each table, and the stream in it.
    """

    def created(events: int) -> list[str]:
        share, all_of_it = events // len(tables), job.events // len(tables)
        return [
            DUMP_TABLE.format(name=name, path=data.dump_file(stream, all_of_it), events=share)
            for name, stream in tables.items()
        ]

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if job.check:
            rows = Jvm(job.parallelism, directory).rows([*created(job.events), query])
            return Outcome.of_checksum(checked(fields[1:] for fields in rows))
        insert = " ".join(ANSWERS.format(query=query).split())
        return timed(job, directory, [*created(job.events), insert], [*created(FIXED_EVENTS), insert])


def w1(job: Job, stream: str = "zipf") -> Outcome:
    return over_dump(PANES.format(time="ts"), lambda rows: checksum.of_panes(map(pane, rows)), job, {"events": stream})


def w1u(job: Job) -> Outcome:
    return w1(job, "uuid")


def w8(job: Job, stream: str = "uuid") -> Outcome:
    return over_dump(HELD, lambda rows: checksum.of_panes(map(pane, rows)), job, {"events": stream})


def w8few(job: Job) -> Outcome:
    return w8(job, "zipf")


def w2(job: Job) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)

        def statements(events: int, output: Path) -> list[str]:
            source = JSON_TABLE.format(path=data.dealt(data.json_file("zipf", events), job.parallelism))
            sink = PANES_TABLE.format(sink=f"'connector' = 'filesystem', 'path' = '{output}', 'format' = 'json'")
            return [source, sink, f"insert into panes {PANES.format(time='`at`')}"]

        output = directory / "panes"
        if job.check:
            Jvm(job.parallelism, directory).timed([(1, statements(job.events, output))])
            return Outcome.of_checksum(checksum.of_panes(written(output)))
        outcome = timed(job, directory, statements(job.events, output), statements(FIXED_EVENTS, directory / "few"))
        outcome.rows = lines_in(output) // (1 + job.repeats)
        return outcome


def w3(job: Job) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)

        def statements(lines: int, *rest: str) -> list[str]:
            return [TEXT_TABLE.format(path=data.dealt(data.text_file(lines), job.parallelism)), *rest]

        if job.check:
            counts = {}
            for kind, word, count in Jvm(job.parallelism, directory).rows(statements(job.events, WORDS)):
                if kind in ("+I", "+U"):  # a changelog: the last count of a word is its result
                    counts[word] = int(count)
            return Outcome.of_checksum(checksum.of_words(counts.items()))
        insert = [WORDS_TABLE, f"insert into counts {WORDS}"]
        outcome = timed(job, directory, statements(job.events, *insert), statements(FIXED_EVENTS, *insert))
        outcome.note += "; rows are those of the changelog"
        return outcome


def w5(job: Job) -> Outcome:
    def checked(rows: Iterable[list[str]]) -> Checksum:
        return checksum.of_sessions((int(s), int(e), key, int(n), float(total)) for s, e, key, n, total in rows)

    return over_dump(SESSIONS, checked, job, {"events": "zipf"})


def w6(job: Job) -> Outcome:
    def checked(rows: Iterable[list[str]]) -> Checksum:
        return checksum.of_counts((int(start), key, int(count)) for start, key, count in rows)

    return over_dump(HOPS, checked, job, {"events": "zipf"})


def w7(job: Job) -> Outcome:
    def checked(rows: Iterable[list[str]]) -> Checksum:
        return checksum.of_pairs((key, int(a), int(b), float(x), float(y)) for key, a, b, x, y in rows)

    return over_dump(PAIRS, checked, job, {"lefts": "left", "rights": "right"})


def pane(fields: Sequence[str]) -> Pane:
    start, key, count, total, mean, top = fields
    return int(start), key, int(count), float(total), float(mean), float(top)


def files_in(directory: Path) -> list[Path]:
    """What Flink's file sink wrote, finished or not: without checkpoints it need not rename its files."""
    return [path for path in directory.rglob("*") if path.is_file() and "part-" in path.name]


def lines_in(directory: Path) -> int:
    return sum(1 for path in files_in(directory) for _ in path.open("rb"))


def written(directory: Path) -> Iterator[Pane]:
    for path in files_in(directory):
        for line in path.read_text().splitlines():
            start, key, count, total, mean, top = json.loads(line).values()
            start_s = datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()
            yield round(start_s * 1_000), key, count, total, mean, top


if __name__ == "__main__":
    serve({"W1": w1, "W1u": w1u, "W8": w8, "W8few": w8few, "W2": w2, "W3": w3, "W5": w5, "W6": w6, "W7": w7})
