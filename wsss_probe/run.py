"""A run: the folder that an audit leaves behind, and how it is read.

runs/vgg16/       (``runs/vgg16.partial/`` until finished, then renamed)
  plan.json  data.zarr/  controls/<name>/  networks/<name>/  ledger/  quarantine.csv  findings.json  passport/
  report.json  report.html  run.json (written last)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsss_probe.concepts import read_concepts
from wsss_probe.controls import is_alive
from wsss_probe.errors import CorruptRunError, ExitCode, UsageError
from wsss_probe.explaining import unguarded
from wsss_probe.findings import read_findings
from wsss_probe.store import Store, open_tree
from wsss_probe.survey import activation_path, probe_path, relevance_path

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr
    from torch import Tensor, nn

    from wsss_probe.contracts import Explainer, Pair, Survey, Target
    from wsss_probe.images import Source

__all__ = ["AuditedRun", "OtherRun", "open_run", "read_record"]

_AGAIN: Final = "delete the folder and run the audit again"


@dataclass(frozen=True)
class AuditedRun:
    """A surveyed network, as probes read it in ``conclude`` and ``sections``.

    Parameters
    ----------
    survey : Survey
    store : Store
    images : DataFrame
        Manifest, one row per image, with the column ``readable``.
    groups : ndarray or None
    source : Source
        Reads images again, for pictures.
    module : nn.Module
        The audited network.
    working : nn.Module
        The copy that ran the survey.
    controls : sequence of OtherRun
    summaries : mapping of str to Dataset
        Of probes that concluded already.
    not_testable : str
        Why no conclusion may rest on this classifier; empty when one may.
    explainers : mapping of str to Explainer
        That this audit offers, by name.
    guard : callable
        Stands around their calls, so that one that fails gives NaN and the others go on.
    contents : ndarray of str or None, (image,)
        Digest of each image's file.
    networks : sequence of OtherRun
        Further networks, as the run file names them.
    """

    survey: Survey
    store: Store
    images: pd.DataFrame
    groups: np.ndarray | None
    source: Source
    module: nn.Module
    working: nn.Module
    controls: Sequence[OtherRun] = ()
    summaries: Mapping[str, xr.Dataset] = field(default_factory=dict)
    not_testable: str = ""
    explainers: Mapping[str, Explainer] = field(default_factory=dict)
    guard: Callable[[Explainer], AbstractContextManager[bool]] = unguarded
    contents: np.ndarray | None = None
    networks: Sequence[OtherRun] = ()

    @cached_property
    def concepts(self) -> xr.Dataset:
        """Concepts that were measured, and covariates of the manifest, (image, concept)."""
        return read_concepts(self.store, self.images)

    @property
    def path(self) -> Path:
        """The run folder; the current folder for a run in memory."""
        return self.store.folder or Path()

    @property
    def logits(self) -> xr.DataArray:
        """Logits, (image, class)."""
        return self._table("predictions")["logits"]

    def rows(self, probe: str) -> xr.Dataset:
        """Rows of a probe; an error if it gave none."""
        return self._table(f"{probe_path(probe)}/rows")

    def partial(self, probe: str) -> xr.Dataset:
        """Partial of a probe, added up over the shards in their order."""
        return self._table(f"{probe_path(probe)}/partials").sum("shard", skipna=False)

    def summary(self, probe: str) -> xr.Dataset:
        """Summary of a probe that concluded before."""
        try:
            return self.summaries[probe]
        except KeyError:
            msg = f"no summary of '{probe}' yet"
            raise UsageError(msg, remedy="name it in Needs.tables") from None

    @property
    def summary_names(self) -> frozenset[str]:
        """Names of the probes that have a summary by now."""
        return frozenset(self.summaries)

    def pooled(self, layer: str) -> xr.DataArray:
        """Spatial mean of a layer's maps, (image, channel)."""
        return self._table(activation_path(layer))["mean"]

    def relevance(self, explainer: str, layer: str) -> xr.Dataset | None:
        """Relevance maps, or None if there are none."""
        return self.store.table(relevance_path(explainer, layer))

    def picture(self, index: int) -> np.ndarray | None:
        """The network's view of an image, uint8 (row, column, 3)."""
        return self.source.picture(index)

    def mask(self, index: int) -> np.ndarray | None:
        """The mask of an image on the input grid."""
        return self.source.read(index).mask

    def activations(self, index: int, layer: str) -> np.ndarray | None:
        """Maps of one image, (channel, row, column), computed again from the image."""
        from wsss_probe.taps import PassOptions, run_pass

        tensor = self.source.read(index).tensor
        if tensor is None:
            return None
        captured = run_pass(
            self.working,
            tensor[None].to(self._device),
            [self.survey.layers[layer]],
            PassOptions(logits=False),
        )
        maps: np.ndarray = captured.activations[layer][0].float().cpu().numpy()
        return maps

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """Network inputs of some images; NaN for one that cannot be read."""
        import torch

        blank = torch.full(self.survey.input_shape, torch.nan)
        read = (self.source.read(int(index)).tensor for index in indices)
        images = [blank if tensor is None else tensor for tensor in read]
        return torch.stack(images).to(self._device) if images else blank[None][:0]

    def explain(
        self,
        images: Tensor,
        pairs: Sequence[Pair],
        target: Target | Tensor = "predicted",
        module: nn.Module | None = None,
    ) -> Mapping[Pair, Tensor]:
        """Relevance maps of any network inputs, by explainers of this audit, on any weights."""
        from wsss_probe.explaining import Asked, explain
        from wsss_probe.head import find_head

        network = self.working if module is None else module
        layers, head = self.survey.layers, self.survey.head
        if module is not None and head.linear:
            head = find_head(module, images[:8], list(layers.values()))
        items = [(self.explainers[name], layer) for name, layer in pairs]
        return explain(network, images, items, Asked(layers, head, target, guard=self.guard))

    def model(self) -> nn.Module:
        """Copy the audited network, in eval mode; whatever happens to the copy, the network is safe."""
        return copy.deepcopy(self.working)

    @property
    def _device(self) -> Any:
        return next((p.device for p in self.working.parameters()), "cpu")

    def _table(self, path: str) -> xr.Dataset:
        table = self.store.table(path)
        if table is None:
            msg = f"run has no table '{path}'"
            raise UsageError(msg, found=", ".join(self.store.tables()))
        return table


@dataclass(frozen=True)
class OtherRun(AuditedRun):
    """The same survey on another network: a control, or one to be compared with the audited one.

    Parameters
    ----------
    name : str
        Kind and number of a control, ``shuffled-0``; else as the run file says.
    audited : Store or None
        The audited network's tables, to compare with.
    made : str
        How, in words.
    """

    name: str = ""
    audited: Store | None = None
    made: str = ""

    def alive(self, layer: str) -> bool:
        """Whether this layer responds to images at all."""
        if self.audited is None:
            return False
        audited = self.audited.table(activation_path(layer))
        return audited is not None and is_alive(self.pooled(layer), audited["mean"])


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``run.json``; only finished runs have one.

    Raises
    ------
    UsageError
        When ``folder`` is no finished run.
    CorruptRunError
        When the file cannot be read as JSON.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        named = Path(folder).resolve()
        partial = named.with_name(named.name + ".partial")
        remedy = "run the same audit again to finish it" if partial.exists() else "give a folder of 'audit'"
        msg = f"'{folder}' is not a finished run"
        raise UsageError(msg, wanted="a folder with run.json", remedy=remedy)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["plan"], record["model"]["name"], ExitCode(record["exit_code"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{path}' cannot be read"
        raise CorruptRunError(msg, found=str(error), remedy=_AGAIN) from error
    return record


def open_run(path: str | Path) -> xr.DataTree:
    """Open a finished run lazily.

    Parameters
    ----------
    path : str or Path
        Run folder.

    Returns
    -------
    DataTree
        The tables of the audited network, those of each control under ``controls/<name>``, of each
        further network under ``networks/<name>``, and the findings as attributes of the root; nothing
        but metadata is read.

    Raises
    ------
    UsageError
        When ``path`` is no finished run.
    CorruptRunError
        When its records cannot be read.
    """
    folder = Path(path)
    record = read_record(folder)
    tree = _tables(folder)
    for kind in ("controls", "networks"):
        for name in record.get(kind, {}):
            tree[f"{kind}/{name}"] = _tables(folder / kind / name)
    tree.attrs["model"] = str(record["model"]["name"])
    tree.attrs["plan"] = str(record["plan"])
    for plugin, finding in read_findings(folder):
        tree.attrs[f"{finding.verdict}: {plugin}/{finding.name}"] = finding.statement
    return tree


def _tables(folder: Path) -> xr.DataTree:
    try:
        return open_tree(folder / "data.zarr")
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"the tables of '{folder}' cannot be opened"
        raise CorruptRunError(msg, found=str(error), remedy=_AGAIN) from error
