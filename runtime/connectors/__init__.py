"""Sources and sinks: everything that reads or writes; base.py says what they have in common."""

from millstream.connectors.caller import CollectSink, PrintSink
from millstream.connectors.discard import NullSink
from millstream.connectors.duckdb import DuckDbSink
from millstream.connectors.file_sinks import CsvSink, JsonLinesSink, ParquetSink
from millstream.connectors.file_sources import ArrowSource, CsvSource, JsonLinesSource, ParquetSource, TextSource
from millstream.connectors.generate import Choice, Constant, Counter, EventTime, GeneratorSource, Uniform, Zipf
from millstream.connectors.memory import IterableSource, TableSource
from millstream.connectors.python import ForEachSink, PythonSink, PythonSource
from millstream.connectors.sqlite import SqliteSink
from millstream.connectors.stdin import StdinSource
from millstream.connectors.zeromq import ZeroMQSink, ZeroMQSource

__all__ = [
    "ArrowSource",
    "Choice",
    "CollectSink",
    "Constant",
    "Counter",
    "CsvSink",
    "CsvSource",
    "DuckDbSink",
    "EventTime",
    "ForEachSink",
    "GeneratorSource",
    "IterableSource",
    "JsonLinesSink",
    "JsonLinesSource",
    "NullSink",
    "ParquetSink",
    "ParquetSource",
    "PrintSink",
    "PythonSink",
    "PythonSource",
    "SqliteSink",
    "StdinSource",
    "TableSource",
    "TextSource",
    "Uniform",
    "ZeroMQSink",
    "ZeroMQSource",
    "Zipf",
]
