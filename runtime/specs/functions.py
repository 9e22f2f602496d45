"""Specs of the operators that call the user's functions on rows and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import pyarrow as pa

from millstream.errors import unknown_field
from millstream.functions import UserFunction
from millstream.specs.base import Bound, Spec
from millstream.specs.on_error import ErrorPolicy


class Shape(Enum):
    """What a row function makes of a row."""

    MAP = "map"  # one result
    FLAT_MAP = "flat_map"  # any number of results
    FILTER = "filter"  # keep the row or not


@dataclass(frozen=True)
class FunctionSpec(Spec):
    """The base of what calls the user's functions: they see both a revised row and what it takes back."""

    columnar: ClassVar[bool] = False

    @property
    def way(self) -> str:
        return "Python"

    on_error: ErrorPolicy

    def notes(self) -> Iterator[str]:
        return self.on_error.notes()

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return inputs[0].changelog is not None

    def _bound(self, upstream: Bound, schema: pa.Schema | None) -> Bound:
        changelog = upstream.changelog
        return replace(upstream, schema=schema, keys=(), changelog=changelog and replace(changelog, keys=None))


@dataclass(frozen=True)
class RowFunctionSpec(FunctionSpec):
    function: UserFunction
    shape: Shape
    schema: pa.Schema | None

    def describe(self) -> str:
        return f"{self.shape.value}({self.function})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        return inputs[0] if self.shape is Shape.FILTER else self._bound(inputs[0], self.schema)

    @property
    def shows_fields(self) -> bool:
        return self.schema is None and self.shape is not Shape.FILTER


@dataclass(frozen=True)
class MapBatchesSpec(FunctionSpec):
    function: UserFunction

    @property
    def way(self) -> str:
        return "Python, on columns"

    def describe(self) -> str:
        return f"map_batches({self.function})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        return self._bound(inputs[0], None)

    @property
    def shows_fields(self) -> bool:
        return True


@dataclass(frozen=True)
class HandlersSpec(FunctionSpec):
    """Event handlers by type, in the order of subscription."""

    handlers: tuple[tuple[str, UserFunction], ...]
    type_field: str

    def describe(self) -> str:
        return "; ".join(f"on({kind!r}, {function})" for kind, function in self.handlers)

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        schema = inputs[0].schema
        if schema is not None and self.type_field not in schema.names:
            raise unknown_field(self.type_field, schema.names, where)
        return self._bound(inputs[0], None)

    @property
    def shows_fields(self) -> bool:
        return True
