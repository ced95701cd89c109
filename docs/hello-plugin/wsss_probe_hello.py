"""Hello: the mean of a layer's maps, and how strongly each layer responds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from wsss_probe import (
    Batch,
    Conclusion,
    DefinitionCard,
    Explainer,
    Finding,
    Needs,
    Observation,
    Probe,
    Section,
    Survey,
    Table,
    Target,
    Text,
    hookimpl,
)

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from wsss_probe.contracts import Run


class MeanMap(Explainer):
    """The mean of a layer's maps over channels; it knows nothing of the class."""

    name = "mean"
    card = DefinitionCard(
        title="Mean activation",
        formula="R(row, column) = mean over k of A_k(row, column)",
        symbols="A_k: map of channel k",
        paper="none; a baseline that no class evidence should lose against",
        invariances=("the target", "the order of channels"),
        misleads="Always: it shows where the layer is active, not what the network decides by.",
    )
    gradients = False

    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:  # noqa: ARG002
        """Average over channels: (image, row, column)."""
        return batch.activations[layer].float().mean(dim=1)


class Energy(Probe):
    """Mean squared activation of every layer, by image."""

    name = "energy"

    def needs(self, survey: Survey) -> Needs:
        """Ask for the activations of all audited layers."""
        return Needs(layers=frozenset(survey.layers))

    def observe(self, batch: Batch) -> Observation:
        """Say one number about each image and layer: rows (image, layer)."""
        import torch
        import xarray as xr

        layers = list(batch.activations)
        energy = torch.stack([batch.activations[k].float().square().flatten(1).mean(1) for k in layers], 1)
        rows = xr.Dataset({"energy": (("image", "layer"), energy.numpy(force=True))}, {"layer": layers})
        return Observation(rows)

    def conclude(self, run: Run) -> Conclusion:
        """Take the median over images, and compare it with the strongest control."""
        energy = run.rows(self.name)["energy"].load().median("image")
        strongest = [_strongest_control(run, str(layer)) for layer in energy["layer"].values]
        summary = energy.to_dataset().assign(control=("layer", strongest))
        summary["ratio"] = summary["energy"] / summary["control"]
        return Conclusion(summary, (_finding(summary["ratio"], int(run.images["readable"].sum())),))

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Show the table."""
        frame = summary.to_dataframe().reset_index()[["layer", "energy", "control", "ratio"]]
        text = Text("Mean squared activation. A layer with ratio near 1 responds as an untrained one does.")
        caption = f"Medians over {len(run.images)} images; control: strongest of {len(run.controls)}."
        yield Section("channels", "How strongly does each layer respond?", (text, Table(frame, caption)))


def _strongest_control(run: Run, layer: str) -> float:
    """Find the largest median among controls that are alive; NaN if there is none."""
    rows = [control.rows("energy")["energy"] for control in run.controls if control.alive(layer)]
    return max((float(row.sel(layer=layer).median()) for row in rows), default=0.0) or float("nan")


def _finding(ratio: xr.DataArray, images: int) -> Finding:
    known = ratio.dropna("layer")
    if not known.size:
        return Finding("energy", "notice", "No layer could be compared with a living control.", n=images)
    top = str(known["layer"].values[known.values.argmax()])
    statement = f"Layer {top} responds {float(known.max()):.3g} times as strongly as its strongest control."
    return Finding(
        "energy", "ok", statement, float(known.max()), n=images, unit="1", control="shuffled weights"
    )


@hookimpl
def wsss_probe_explainers() -> Iterable[Explainer]:
    """Offer the mean map."""
    return [MeanMap()]


@hookimpl
def wsss_probe_probes() -> Iterable[Probe]:
    """Offer the energy probe."""
    return [Energy()]
