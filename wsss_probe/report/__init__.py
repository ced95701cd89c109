"""From sections to one self-contained HTML file that asks nothing of any network.

``Document -> encode -> EncodedDocument -> render -> HTML``. Encoding turns frames, arrays and
pixels into plain values once; the encoded document is what ``dumps`` stores, so that a report can
be written again without the plugins, the images or the model.
"""

from __future__ import annotations

from wsss_probe.report.document import Document, dumps, loads, render, write
from wsss_probe.report.encoded import EncodedDocument

__all__ = ["Document", "EncodedDocument", "dumps", "loads", "render", "write"]
