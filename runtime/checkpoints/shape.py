"""What the state of an operator depends on, in words: the manifest holds it, so that a changed flow can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

OPERATOR: Final = "operator"
"""The aspect that says what an operator is; without this one it is another operator."""

STATE: Final = "state "
"""Before the name of a state of the user's: the aspect that says what it holds. An operator may have several."""

VERSION: Final = "version of "
"""Before the name of a state of the user's: the aspect that a migration may change."""


BELONGS_TO: Final = "belongs to"
"""The aspect of a sink that nobody asked for: the operator whose late events it takes."""

SOURCE: Final = "source"
"""The aspect that only sources have."""

SINK: Final = "sink"
"""The aspect that only sinks have."""


@dataclass(frozen=True)
class Shape:
    """Attributes:
    aspects: by name, what has to be the same for its state to be of use: the operator, its key, its aggregates.
    types: of the key and of the fields that it keeps or computes with; None: not known before the first row.
    migrations: the states of the user's own that older versions can be brought to.
    """

    aspects: dict[str, str]
    types: dict[str, str] | None = None
    migrations: list[str] = field(default_factory=list)

    @property
    def operator(self) -> str:
        return self.aspects.get(OPERATOR, "")

    @property
    def belongs_to(self) -> str:
        return self.aspects.get(BELONGS_TO, "")

    @property
    def is_source(self) -> bool:
        return SOURCE in self.aspects

    @property
    def is_sink(self) -> bool:
        return SINK in self.aspects

    def versions(self) -> dict[str, int]:
        """By the name of the user's state."""
        return {a.removeprefix(VERSION): int(v) for a, v in self.aspects.items() if a.startswith(VERSION)}

    def fixed(self) -> Iterator[tuple[str, str]]:
        """The aspects that nothing can change."""
        return ((a, v) for a, v in self.aspects.items() if not a.startswith(VERSION))
