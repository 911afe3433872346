"""The engines against the model: see tests/engine_machine.py.

`HYPOTHESIS_PROFILE=long pytest tests/test_engine.py --hypothesis-seed=N` plays for minutes, twenty times as many and twice
as long games, and the same ones for the same N. What fails is shrunk, which takes up to five minutes.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.engine_machine import EngineMachine

pytestmark = pytest.mark.timeout(0 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 600)

TestReferenceEngine = EngineMachine.TestCase
TestReferenceEngine.settings = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
