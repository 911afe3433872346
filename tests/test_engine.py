"""The engines against the model: see tests/engine_machine.py."""

from __future__ import annotations

from hypothesis import settings

from tests.engine_machine import EngineMachine

TestReferenceEngine = EngineMachine.TestCase
TestReferenceEngine.settings = settings(max_examples=100, stateful_step_count=40)
