"""The events that benchmarks run on: deterministic streams of any length, cached as files under bench/data/.

A stream is a base drawn once from seed 7 and repeated, each copy moved on in event time by the span of the base.
So "the first n events" means the same for every n: small runs that compare answers see a prefix of what timed
runs see, and every contestant reads the same events in whatever file form suits it.

- ``zipf``: 10,000 keys, Zipf 1.2 (draws beyond the last key wrap around).
- ``uuid``: ten million UUID keys, uniform; ``million``: one million.
- ``hot``: 10,000 keys, uniform, but that every other event, by chance, has one key.
- ``left`` and ``right``: 10,000 keys, uniform; for joins.
- ``words``: lines of 10 words out of 50,000, Zipf 1.2.

An event of all but the last comes a millisecond after the one before, set back by 0 to 1,999 ms. Values are multiples
of an eighth: sums and products are then exact in binary, so engines that add in another order agree to the digit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]

DIRECTORY = Path(__file__).parent / "data"
SEED = 7
START_MS = 1_700_000_000_000
OUT_OF_ORDERNESS_MS = 2_000
BATCH_ROWS = 65_536
BLOCK_LINES = 1_000
FILE_ROWS = 4_000_000

ZIPF_EXPONENT = 1.2
ZIPF_KEYS = 10_000
UUID_KEYS = 10_000_000
WORDS = 50_000
WORDS_A_LINE = 10
BASE_LINES = 500_000

KEYS = {"uuid": UUID_KEYS, "million": 1_000_000}

BASE_ROWS = {
    "zipf": 4_000_000, "uuid": 10_000_000, "million": 4_000_000, "hot": 4_000_000, "left": 4_000_000, "right": 4_000_000,
}  # fmt: skip
SEEDS = {"left": SEED + 1, "right": SEED + 2, "hot": SEED + 3}
TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema({"key": pa.string(), "ts": TIME, "value": pa.float64()})  # type: ignore[arg-type]


def arrow_files(stream: str, events: int) -> list[Path]:
    """The first ``events`` of a stream as Arrow IPC files of at most ``FILE_ROWS``, in order."""
    return [_arrow_file(stream, start, rows) for start, rows in _cuts(events, FILE_ROWS)]


def json_file(stream: str, events: int) -> Path:
    """The first ``events`` of a stream as one file of JSON lines; ``ts`` in milliseconds since 1970."""
    return cached(f"{stream}-{events}.jsonl", lambda path: _write_lines(path, _json_lines(stream, events)))


def text_file(lines: int) -> Path:
    """The first ``lines`` lines of words."""
    return cached(f"words-{lines}.txt", lambda path: _write_lines(path, _word_lines(lines)))


def dump_file(stream: str, events: int) -> Path:
    """The first ``events``, at most one base, as little-endian columns for readers without Arrow.

    Layout: rows int64, key bytes int64, key ends int32[rows], ts (ms) int64[rows], value float64[rows], keys.
    A reader makes a longer stream as this module does: the same rows again, as many milliseconds later.
    """
    rows = min(events, BASE_ROWS[stream])
    return cached(f"{stream}-{rows}.dump", lambda path: _write_dump(path, stream, rows))


def dealt(path: Path, parts: int) -> Path:
    """A file of lines dealt out in blocks to so many files in one folder; with one part, the file itself."""
    if parts == 1:
        return path
    return cached(f"{path.stem}-by-{parts}", lambda directory: _deal(path, directory, parts))


def batches(stream: str, start: int, rows: int) -> Iterator[pa.RecordBatch]:
    """Events ``start`` to ``start + rows`` of a stream, in batches of at most ``BATCH_ROWS``."""
    which, set_back, eighths = _base(stream)
    for offset, count in _cuts(rows, BATCH_ROWS):
        index = np.arange(start + offset, start + offset + count)
        base = index % len(which)
        ts = (START_MS + index - set_back[base]) * 1_000
        yield pa.record_batch(
            [_key_names(stream, which[base]), pa.array(ts).cast(TIME), pa.array(eighths[base] / 8)],
            schema=SCHEMA,
        )


def distinct_keys(stream: str, events: int) -> int:
    """How many different keys the first ``events`` of a stream have."""
    return len(np.unique(_base(stream)[0][:events]))


def _arrow_file(stream: str, start: int, rows: int) -> Path:
    name = f"{stream}-{start // FILE_ROWS:03d}-{rows}.arrow"
    return cached(name, lambda path: _write_arrow(path, stream, start, rows))


def _cuts(rows: int, most: int) -> list[tuple[int, int]]:
    return [(start, min(most, rows - start)) for start in range(0, rows, most)]


def cached(name: str, write: Callable[[Path], None]) -> Path:
    """The file of this name among the data, made on first use by ``write``, which is given where to write."""
    path = DIRECTORY / name
    if not path.exists():
        DIRECTORY.mkdir(exist_ok=True)
        part = path.with_name(f"{name}.{os.getpid()}.part")
        write(part)
        part.rename(path)  # never a half-written file under the final name
    return path


@cache
def _base(stream: str) -> tuple[Integers, Integers, Integers]:
    """Key number, set-back in ms and value in eighths of each event of the base."""
    rng, rows = np.random.default_rng(SEEDS.get(stream, SEED)), BASE_ROWS[stream]
    if stream == "zipf":
        which = (rng.zipf(ZIPF_EXPONENT, rows) - 1) % ZIPF_KEYS
    else:
        which = rng.integers(0, KEYS.get(stream, ZIPF_KEYS), rows)
    if stream == "hot":
        which[rng.random(rows) < 0.5] = 0
    return which, rng.integers(0, OUT_OF_ORDERNESS_MS, rows), rng.integers(0, 800, rows)


def _key_names(stream: str, which: Integers) -> pa.Array[Any]:
    return _uuids(which) if stream in KEYS else _zipf_names().take(which)


@cache
def _zipf_names() -> pa.Array[Any]:
    return pa.array([f"user-{i}" for i in range(ZIPF_KEYS)])


def _uuids(which: Integers) -> pa.Array[Any]:
    """UUID number i in its usual text form: 128 mixed bits, so no table of ten million strings is needed."""
    halves = np.stack([_mixed(2 * which), _mixed(2 * which + 1)], axis=1)
    digits = np.frombuffer(halves.astype(">u8").tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    text = np.full((len(which), 36), ord("-"), np.uint8)
    for source, target, length in ((0, 0, 8), (8, 9, 4), (12, 14, 4), (16, 19, 4), (20, 24, 12)):
        text[:, target : target + length] = digits[:, source : source + length]
    ends = np.arange(0, 36 * (len(which) + 1), 36, dtype=np.int32)
    return pa.StringArray.from_buffers(len(which), pa.py_buffer(ends.tobytes()), pa.py_buffer(text.tobytes()))


def _mixed(number: Integers) -> npt.NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    z = (number.astype(np.uint64) + np.uint64(SEED)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _write_arrow(path: Path, stream: str, start: int, rows: int) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in batches(stream, start, rows):
            writer.write_batch(batch)


def _write_dump(path: Path, stream: str, rows: int) -> None:
    table = pa.Table.from_batches(batches(stream, 0, rows)).combine_chunks()
    ends, text = _text(table["key"].chunk(0))  # type: ignore[arg-type]  # a chunk is an Array
    with path.open("wb") as file:
        file.write(np.array([rows, len(text)], "<i8").tobytes())
        file.write(ends.tobytes())
        file.write((table["ts"].cast(pa.int64()).to_numpy() // 1_000).tobytes())
        file.write(table["value"].to_numpy().tobytes())
        file.write(text)


def _write_lines(path: Path, lines: Iterator[pa.Array[Any]]) -> None:
    """Write arrays of strings that each end with a newline: their data buffers are the file's very bytes."""
    with path.open("wb") as file:
        for array in lines:
            file.write(_text(array)[1])


def _text(strings: pa.Array[Any]) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Where each string ends, and the bytes of all of them."""
    _, offsets, text = strings.buffers()
    ends = np.frombuffer(offsets, np.int32)[1 : len(strings) + 1]  # type: ignore[call-overload]  # a Buffer is one
    return ends, memoryview(text)[: ends[-1]]  # type: ignore[arg-type]  # a Buffer is one


def _deal(path: Path, directory: Path, parts: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack, path.open("rb") as lines:
        files = [stack.enter_context((directory / f"{i}{path.suffix}").open("wb")) for i in range(parts)]
        for file in cycle(files):
            block = list(islice(lines, BLOCK_LINES))
            if not block:
                return
            file.writelines(block)


def _json_lines(stream: str, events: int) -> Iterator[pa.Array[Any]]:
    fractions = pa.array([".0", ".125", ".25", ".375", ".5", ".625", ".75", ".875"])
    for batch in batches(stream, 0, events):
        millis = pc.divide(batch["ts"].cast(pa.int64()), 1_000).cast(pa.string())
        eighths = (batch["value"].to_numpy() * 8).astype(np.int64)
        whole, fraction = pa.array(eighths // 8).cast(pa.string()), fractions.take(eighths % 8)
        yield _joined('{"key":"', batch["key"], '","ts":', millis, ',"value":', whole, fraction, "}\n")


def _word_lines(lines: int) -> Iterator[pa.Array[Any]]:
    names, which = pa.array([_word(i) for i in range(WORDS)]), _base_words()
    for start, count in _cuts(lines, BATCH_ROWS):
        rows = which[np.arange(start, start + count) % BASE_LINES]
        words = [names.take(column) for column in rows.T]
        yield _joined(*(part for word in words[:-1] for part in (word, " ")), words[-1], "\n")


@cache
def _base_words() -> Integers:
    weight = np.arange(1, WORDS + 1) ** -ZIPF_EXPONENT
    share = np.cumsum(weight) / weight.sum()
    draws = np.random.default_rng(SEED).random((BASE_LINES, WORDS_A_LINE))
    return np.minimum(np.searchsorted(share, draws), WORDS - 1)


def _word(number: int) -> str:
    """A word of two or more syllables; frequent words are short, as in a language."""
    syllables: list[str] = []
    while number or len(syllables) < 2:
        number, syllable = divmod(number, 70)
        syllables.append("bdfgklmnprstvz"[syllable // 5] + "aeiou"[syllable % 5])
    return "".join(syllables)


def _joined(*parts: Any) -> pa.Array[Any]:
    joined: pa.Array[Any] = pc.binary_join_element_wise(*parts, "")
    return joined
