"""For plugin authors: conformance suites, runs in memory, tiny networks whose answers are known.

Nothing is imported before it is used, since this package is loaded in everybody's pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss_probe.testing.column_suite import ChannelColumnsSuite
    from wsss_probe.testing.measure_suite import ConceptMeasureSuite
    from wsss_probe.testing.runs import InMemoryControl, InMemoryRun, run_in_memory
    from wsss_probe.testing.scenes import Scene, make_scene
    from wsss_probe.testing.suites import ExplainerSuite, ProbeSuite

__all__ = [
    "ChannelColumnsSuite",
    "ConceptMeasureSuite",
    "ExplainerSuite",
    "InMemoryControl",
    "InMemoryRun",
    "ProbeSuite",
    "Scene",
    "make_scene",
    "run_in_memory",
]

_HOMES = {
    "ChannelColumnsSuite": "column_suite",
    "ConceptMeasureSuite": "measure_suite",
    "ExplainerSuite": "suites",
    "ProbeSuite": "suites",
    "InMemoryControl": "runs",
    "InMemoryRun": "runs",
    "run_in_memory": "runs",
    "Scene": "scenes",
    "make_scene": "scenes",
}


def __getattr__(name: str) -> Any:
    """Import a suite or a run on first use."""
    if name in _HOMES:
        return getattr(import_module(f"wsss_probe.testing.{_HOMES[name]}"), name)
    msg = f"module 'wsss_probe.testing' has no attribute {name!r}"
    raise AttributeError(msg)
