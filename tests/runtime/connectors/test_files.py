"""Opening files: names in natural order, compression, and errors that say what to do."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from millstream.connectors.files import check_readable, compression_of, expand, matching, natural_key, open_text
from millstream.errors import SourceError


def everything(path: Path) -> bytes:
    file = open_text(str(path), "infer")
    data, before = b"", -1
    while len(data) != before:
        before = len(data)
        data = file.more(data, 1000)
    file.close()
    return data


def test_names_are_sorted_as_people_count() -> None:
    names = ["part-10", "part-2", "part-2b", "a1", "part-1/x", "part"]
    assert sorted(names, key=natural_key) == ["a1", "part", "part-1/x", "part-2", "part-2b", "part-10"]


def test_a_glob_gives_files_in_natural_order_and_no_folders(tmp_path: Path) -> None:
    for name in ("part-10", "part-9"):
        (tmp_path / name).write_text("")
    (tmp_path / "part-5").mkdir()
    assert expand(f"{tmp_path}/part-*") == [f"{tmp_path}/part-9", f"{tmp_path}/part-10"]


def test_a_file_whose_name_has_wildcards_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1]").write_text("")
    assert expand(f"{tmp_path}/a[1]") == [f"{tmp_path}/a[1]"]


def test_missing_files_directories_and_empty_globs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none: there is no such file"):
        matching([f"{tmp_path}/none"])
    with pytest.raises(SourceError, match=r"no file matches"):
        matching([f"{tmp_path}/*.csv"])
    with pytest.raises(SourceError, match=r"is a directory.*glob"):
        matching([str(tmp_path)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0)
    with pytest.raises(SourceError, match="no permission"):
        check_readable(str(path))


def test_compression_is_known_by_the_suffix() -> None:
    assert compression_of("a.jsonl.gz", "infer") == "gzip"
    assert compression_of("a.ZST", "infer") == "zstd"
    assert compression_of("a.gz", None) is None


@pytest.mark.parametrize("name", ["plain", "several.gz", "several.zst"])
def test_files_of_several_compressed_members_are_read_whole(tmp_path: Path, name: str) -> None:
    text = b"some line\n" * 5000
    packs: dict[str, Callable[[bytes], bytes]] = {
        "plain": bytes,
        "several.gz": gzip.compress,
        "several.zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }
    pack = packs[name]
    (tmp_path / name).write_bytes(pack(text) + pack(text))
    assert everything(tmp_path / name) == text + text


def test_a_truncated_compressed_file_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"some line\n" * 5000)[:-9])
    with pytest.raises(SourceError, match=r"torn.gz: damaged"):
        everything(tmp_path / "torn.gz")
    (tmp_path / "empty.gz").write_bytes(b"")
    assert everything(tmp_path / "empty.gz") == b""
