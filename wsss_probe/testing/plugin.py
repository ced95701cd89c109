"""Loaded in everybody's pytest: assertion rewriting for the suites, and two fixtures; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from wsss_probe.host import PluginHost
    from wsss_probe.testing.scenes import Scene

# Without this a failing assertion of a suite would say "AssertionError" and nothing else.
pytest.register_assert_rewrite(
    "wsss_probe.testing.suites", "wsss_probe.testing.column_suite", "wsss_probe.testing.measure_suite"
)


@pytest.fixture
def plugin_host() -> PluginHost:
    """Give a host without plugins that raises a plugin's errors; ``register`` yours."""
    from wsss_probe.host import PluginHost

    return PluginHost(strict=True)


@pytest.fixture
def scene() -> Scene:
    """Give a tiny network with six images, labels and masks."""
    from wsss_probe.testing.scenes import make_scene

    return make_scene()
