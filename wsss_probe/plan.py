"""What will be computed, as one frozen value with a hash.

The plan is written before the first image is read. Resuming and caching compare its hash: equal
plans give bit-identical tables on one machine, so everything that can change a bit is in it (memory
format, batch size, threads, library versions), and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss_probe.atomic import write_atomically
from wsss_probe.errors import CorruptRunError, PlanError

if TYPE_CHECKING:
    from wsss_probe.contracts import Target

__all__ = ["Execution", "Plan", "library_versions", "read_plan", "same_plan"]

_LIBRARIES = ("wsss-probe", "torch", "numpy", "zarr", "xarray", "pillow")


@dataclass(frozen=True, slots=True)
class Execution:
    """How the pass is run; part of the plan, since it can change the last bits.

    Parameters
    ----------
    batch_size, shard : int
        Images per forward pass and per shard; ``shard`` is a multiple of ``batch_size``.
    device : str
    threads : int
        Threads of torch within one operation.
    memory_format : {"channels_last", "contiguous"}
    seed : int
    """

    batch_size: int = 16
    shard: int = 64
    device: str = "cpu"
    threads: int = 1
    memory_format: str = "channels_last"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What one audit computes.

    Parameters
    ----------
    model, data, preprocessing : mapping
        Descriptions with content hashes.
    layers : tuple of str
        Audited layers, in the order of execution.
    layers_reason : str
        Why these.
    targets : tuple of Target
    relevance : tuple of (str, str)
        Explainer and layer of every relevance table.
    probes : tuple of mapping
        Name, plugin, version and options of each probe.
    controls : tuple of str
        Kind and seed of each control, ``shuffled-0``.
    stored : tuple of str
        Layers whose maps are kept.
    execution : Execution
    libraries : mapping of str to str
    layouts : mapping of str to str
        Of audited layers whose maps the network does not order as NCHW.
    measures : tuple of mapping
        Name, plugin, version and options of each concept measure.
    networks : tuple of mapping
        Name and origin of each further network, in their order.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    layers: tuple[str, ...]
    layers_reason: str
    targets: tuple[Target, ...]
    relevance: tuple[tuple[str, str], ...]
    probes: tuple[Mapping[str, Any], ...]
    controls: tuple[str, ...]
    stored: tuple[str, ...]
    execution: Execution
    libraries: Mapping[str, str]
    layouts: Mapping[str, str] = field(default_factory=dict)
    measures: tuple[Mapping[str, Any], ...] = ()
    networks: tuple[Mapping[str, Any], ...] = ()

    @property
    def id(self) -> str:
        """SHA-256 over the canonical JSON of the plan."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able data."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def write(self, folder: Path) -> None:
        """Write ``plan.json``, first of all files of a run."""
        text = json.dumps({"id": self.id, **self.to_dict()}, indent=2)
        write_atomically(folder / "plan.json", text)

    def for_control(self, name: str) -> Plan:
        """Return the plan of the same survey on a control: rows only, no maps."""
        return self._rows_only({**self.model, "control": name})

    def for_network(self, name: str) -> Plan:
        """Return the plan of the same survey on a further network: rows only, no maps."""
        (origin,) = (network for network in self.networks if network["name"] == name)
        return self._rows_only({**origin, "network": name})

    def _rows_only(self, model: Mapping[str, Any]) -> Plan:
        return replace(self, model=model, relevance=(), stored=(), controls=(), measures=(), networks=())


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Read ``plan.json`` of a run, or None if there is none.

    Raises
    ------
    CorruptRunError
        When the file is not a plan.
    """
    path = folder / "plan.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["id"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{path}' is not a plan"
        raise CorruptRunError(msg, found=str(error), remedy="delete the folder and run again") from error
    return found


def same_plan(plan: Plan, folder: Path) -> bool:
    """Whether ``folder`` holds this plan; False if it holds none.

    Raises
    ------
    PlanError
        When it holds another one; the message names what differs.
    """
    found = read_plan(folder)
    if found is None:
        return False
    if found["id"] == plan.id:
        return True
    wanted = plan.to_dict()
    differing = sorted(key for key in wanted if wanted[key] != found.get(key))
    msg = f"'{folder}' holds a run that was planned differently"
    raise PlanError(
        msg,
        found=f"other {', '.join(differing) or 'contents'}",
        remedy="choose another --out, or delete that folder",
    )
