"""What all tests share: where `harness` is found, and how Hypothesis searches.

``HYPOTHESIS_PROFILE=long`` searches longer and from a new random seed each time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "quick", deadline=None, derandomize=True, database=None, max_examples=40, suppress_health_check=_SLOW
)
settings.register_profile("long", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
