"""Channel evidence for wsss-probe: channel-F1 against masks, with controls.

Importing this module loads no torch: the probe is loaded when the host asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsss_probe import hookimpl

if TYPE_CHECKING:
    from wsss_probe import Probe
    from wsss_probe_channels.probe import ChannelF1

__all__ = ["ChannelF1", "wsss_probe_probes"]


@hookimpl
def wsss_probe_probes() -> Iterable[Probe]:
    """Offer channel-F1; the host splits it into one probe per layer."""
    from wsss_probe_channels.probe import ChannelF1

    return [ChannelF1()]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name == "ChannelF1":
        return import_module("wsss_probe_channels.probe").ChannelF1
    msg = f"module 'wsss_probe_channels' has no attribute {name!r}"
    raise AttributeError(msg)
