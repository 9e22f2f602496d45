"""Coverage-guided search for input that a reader does not refuse as it should; see `scripts/fuzz`.

What is found is written to ``crash-...`` in the current directory, and read again by ``scripts/fuzz NAME FILE``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["millstream", "msgpack", "msgspec"]):
        from tests.fuzz.readers import TARGETS, try_reader

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: scripts/fuzz NAME [-max_total_time=SECONDS] [FILE]\nnames: {', '.join(map(repr, TARGETS))}")
    target = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as corpus:
        for number, sound in enumerate(target.sound):
            Path(corpus, str(number)).write_bytes(sound)
        where = [] if any(Path(a).is_file() for a in sys.argv[2:]) else [corpus]
        limits = ["-rss_limit_mb=2048", "-timeout=10", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], *where], lambda data: try_reader(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
