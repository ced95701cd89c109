"""Pictures as a network sees them: decoded, preprocessed, with their masks."""

from __future__ import annotations

from wsss_probe.preprocessing import Preprocessing

__all__ = ["Preprocessing"]
