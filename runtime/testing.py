"""Tests of flows: `FlowTest` feeds a flow by hand, on virtual time, and shows what comes out. See docs/testing.md.

It runs the coordinator, which the rest of the runtime does not know; only who tests imports this module.
"""

from millstream.coordinator.testing import FlowTest

__all__ = ["FlowTest"]
