"""What plugins hand over and what they are handed: frozen values and abstract classes.

Every class here is either *abstract* (a plugin subclasses it) or *final* (it is made, never
subclassed). Nothing is stored on a probe or an explainer while a survey runs: a probe is a
description with functions, its results are tables.

Dimension names, everywhere: ``image, channel, row, column, class, concept, explainer, layer,
split``. Tensors follow the same order, so ``(image, channel, row, column)`` is NCHW.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, final

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import xarray as xr
    from torch import Tensor, nn

__all__ = [
    "INPUT",
    "Batch",
    "Block",
    "ChannelColumn",
    "ChannelColumns",
    "Choice",
    "Command",
    "Concept",
    "ConceptMeasure",
    "Conclusion",
    "Contrast",
    "Control",
    "DefinitionCard",
    "Explainer",
    "Figure",
    "Finding",
    "Gallery",
    "Head",
    "LayerInfo",
    "Layout",
    "ModelSource",
    "Needs",
    "Network",
    "Observation",
    "Pair",
    "Picture",
    "Probe",
    "Question",
    "Run",
    "Section",
    "Survey",
    "Table",
    "Target",
    "Text",
    "Verdict",
    "View",
]

INPUT: Final = "input"
"""Stands for a layer's name where an explainer's map lies on the network's input."""


@final
@dataclass(frozen=True, slots=True)
class Contrast:
    """A difference of logits: why this class rather than that one.

    The score is ``logit[of] - weight * mean(logit[against])``.

    Parameters
    ----------
    of : "predicted", "label" or int
    against : "next" or int
        ``"next"`` are the ``references`` largest logits of other classes than ``of``.
    weight : float
    references : int
        How many classes ``"next"`` means; fewer where the network has fewer.
    """

    of: str | int = "predicted"
    against: str | int = "next"
    weight: float = 1.0
    references: int = 1

    def __str__(self) -> str:
        against = self.against if self.against != "next" else f"next {self.references}"
        return f"{self.of} minus {self.weight:g} x {against}"


Target = str | int | Contrast
"""What is explained: the logit ``"predicted"``, of the ``"label"``, of a class index, or a contrast."""

Pair = tuple[str, str]
"""An explainer and a layer, or :data:`INPUT`: what names a relevance map."""

Verdict = Literal["ok", "notice", "warning"]

Question = Literal["verdict", "where", "channels", "concepts", "chance", "segmentation", "failed", "how"]
"""The question of the report that a section answers; it decides where the section stands."""


# -- what is known about a model -------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Order in which a layer puts out its maps.

    Whatever it is, plugins are handed ``(image, channel, row, column)``; :mod:`wsss_probe.layout`
    infers it, reads it from words, and turns tensors to maps and back.

    Parameters
    ----------
    kind : {"NCHW", "NHWC", "tokens"}
        ``(image, channel, row, column)``, ``(image, row, column, channel)``, or
        ``(image, prefix + row * column, channel)``.
    prefix : int
        Tokens before those of the grid, such as a class token; they are in no map.
    grid : (int, int) or None
        Row and column of tokens; None for the other kinds.
    """

    kind: Literal["NCHW", "NHWC", "tokens"] = "NCHW"
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.grid is None:
            return self.kind
        more = f"+{self.prefix}" if self.prefix else ""
        return f"{self.kind}:{self.grid[0]}x{self.grid[1]}{more}"


@final
@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One tappable layer, as seen in a forward pass of one image.

    Parameters
    ----------
    name : str
        Dotted module name; a call number is appended for a module that runs more than once
        (``relu#0``, ``relu#1``).
    type : str
        Class name of the module.
    order : int
        Position in the order of execution, from 0.
    calls : int
        Calls per forward pass; 0 for a module that never runs.
    shape : tuple of int
        Output shape without the image dimension; ``(channel, row, column)`` for maps, whatever
        their native layout.
    layout : {"maps", "vector", "other"}
        ``maps`` for an output with rows and columns, ``vector`` for a 2-D one.
    stride : float or None
        Input pixels per map cell along a row, from the sizes; None if not maps.
    receptive_field : int or None
        Side in input pixels, where it can be computed from the chain of layers.
    inplace : bool
        Whether something overwrites this output in place afterwards.
    native : Layout
        How the network itself orders these maps.
    reason : str
        Why it is taken for this, or for no maps, where that is not plain; and why the maps have no
        part in the logits, where they have none.
    reached : bool
        False where only the prefix tokens of this layer, and none of its maps, reach the logits.
    """

    name: str
    type: str
    order: int
    calls: int
    shape: tuple[int, ...]
    layout: Literal["maps", "vector", "other"]
    stride: float | None = None
    receptive_field: int | None = None
    inplace: bool = False
    native: Layout = Layout()
    reason: str = ""
    reached: bool = True


@final
@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a network is, proved on real images.

    ``logits = weight @ GAP(activations of layer) + bias`` holds to ``error`` (largest absolute
    difference over the largest absolute logit) when ``linear`` is true; otherwise ``reason`` says why not.

    Parameters
    ----------
    linear : bool
    layer : str
        The layer whose maps the head averages; empty when not linear.
    weight : ndarray, (class, channel)
    bias : ndarray, (class,)
    error : float
    reason : str
    """

    linear: bool
    layer: str = ""
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    error: float = float("nan")
    reason: str = ""


# -- what a probe asks for, and gets ----------------------------------------------------------


def _nothing_else(_images: Tensor, _layers: Sequence[str]) -> Mapping[str, Tensor]:
    """Stand in for a network in a batch that was made without one."""
    msg = "this batch was made without a network"
    raise NotImplementedError(msg)


def _no_network() -> AbstractContextManager[nn.Module]:
    """Stand in for a network in a batch that was made without one."""
    msg = "this batch was made without a network"
    raise NotImplementedError(msg)


@final
@dataclass(frozen=True, slots=True)
class Needs:
    """What a probe asks of the survey.

    Parameters
    ----------
    layers : frozenset of str
        Layers whose activations it reads.
    gradients : frozenset of (str, Target)
        Layer gradients of the logit of a target.
    labels, masks : bool
        Without labels or masks in the manifest such a probe is skipped, with a finding.
    tables : frozenset of str
        Probes whose summary must exist before; a streaming probe with tables runs in a later pass.
    model : bool
        Whether ``conclude`` asks for the model itself.
    controls : bool
        Whether control networks are surveyed for it as well. False only where a control answers
        nothing that the probe is asked, since a number without its control supports no verdict.
    relevance : bool
        Whether it reads ``batch.relevance``: the maps of every planned explainer and layer.
    concepts : bool
        Whether it reads ``run.concepts``; images are measured only if some probe does.
    """

    layers: frozenset[str] = frozenset()
    gradients: frozenset[tuple[str, Target]] = frozenset()
    labels: bool = False
    masks: bool = False
    tables: frozenset[str] = frozenset()
    model: bool = False
    controls: bool = True
    relevance: bool = False
    concepts: bool = False


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of the survey; read-only.

    Parameters
    ----------
    indices : ndarray of int, (image,)
        Positions in the manifest.
    images : Tensor, (image, channel, row, column)
        Network input, preprocessed.
    labels : Tensor of bool, (image, class)
        Labels as sets; all false when unknown.
    masks : Tensor of int or None, (image, row, column)
        Position in ``mask_classes``; -1 is ignored or unknown, -2 is background, in no class.
        Same grid as ``images``.
    mask_classes : tuple of str
    readable : Tensor of bool, (image,)
        False for images that could not be decoded, or for which the network gives NaN or infinity;
        the host turns their rows into NaN.
    logits : Tensor, (image, class)
    activations : mapping of str to Tensor
        Output of each needed layer, (image, channel, row, column) for maps.
    gradients : mapping of (str, Target) to Tensor
        Gradient of each image's own target logit, same shape as the activation.
    head : Head
    forward : callable
        ``forward(images) -> logits``.
    resume : callable
        ``resume(layer, activations) -> logits``: the pass continues from a layer. The first
        dimension of ``activations`` is ``image`` or a whole multiple of it (copies of the batch
        one after another).
    tables : mapping of str to Dataset
        Summaries named in ``Needs.tables``.
    activations_of : callable
        ``activations_of(images, layers) -> mapping of str to Tensor``: outputs of audited layers for
        other network inputs, transformed ones say; the pass stops after the deepest of them.
    targets : mapping of Target to Tensor, (image, class)
        Weights of the logits in each target's score: one-hot for a class, with -1 for what a
        contrast subtracts. The score of an image is ``(logits * weights).sum(1)``. Rows of NaN
        where an image has no such target.
    relevance : mapping of (str, str) to Tensor, (image, row, column)
        For probes with ``Needs.relevance``: maps of ``(explainer, layer)`` for the survey's first
        target, signed, on their own grid. NaN where the explainer gives none for this network.
    objects : Tensor of int or None, (image, row, column)
        Number of the annotated object at each pixel, 0 in none; None where masks hold classes only.
    lend : callable
        ``with batch.lend() as module:`` lends the network itself, in eval mode with gradients
        enabled, to what must hook it (captum, other people's explainers). Whatever the block leaves
        behind (hooks, flags, gradients, buffers) is taken off again.
    layers : mapping of str to LayerInfo
        The audited layers, as :func:`wsss_probe.taps.run_pass` takes them.
    """

    indices: np.ndarray
    images: Tensor
    labels: Tensor
    masks: Tensor | None
    mask_classes: tuple[str, ...]
    readable: Tensor
    logits: Tensor
    activations: Mapping[str, Tensor]
    gradients: Mapping[tuple[str, Target], Tensor]
    head: Head
    forward: Callable[[Tensor], Tensor]
    resume: Callable[[str, Tensor], Tensor]
    tables: Mapping[str, xr.Dataset] = field(default_factory=dict)
    activations_of: Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]] = _nothing_else
    targets: Mapping[Target, Tensor] = field(default_factory=dict)
    relevance: Mapping[Pair, Tensor] = field(default_factory=dict)
    objects: Tensor | None = None
    lend: Callable[[], AbstractContextManager[nn.Module]] = _no_network
    layers: Mapping[str, LayerInfo] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Survey:
    """What a probe may know before the first image: the part of the plan that concerns it.

    Parameters
    ----------
    layers : mapping of str to LayerInfo
        The audited layers, in the order of execution.
    classes : tuple of str
        Names of the logits, in order.
    targets : tuple of Target
        Targets whose relevance maps are computed.
    mask_classes : tuple of str
        Names of the mask classes; empty without masks.
    head : Head
    input_shape : tuple of int
        ``(channel, row, column)`` of the network input.
    multilabel : bool
        Whether classes are decided one by one (sigmoid) instead of against each other.
    seed : int
    images : int
        Rows of the manifest, so that a probe can choose some of them beforehand; 0 if not known.
    relevance : tuple of (str, str)
        Explainer and layer (or :data:`INPUT`) of every relevance map that is computed.
    """

    layers: Mapping[str, LayerInfo]
    classes: tuple[str, ...]
    targets: tuple[Target, ...]
    mask_classes: tuple[str, ...]
    head: Head
    input_shape: tuple[int, ...]
    multilabel: bool
    seed: int
    images: int = 0
    relevance: tuple[Pair, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Observation:
    """What a probe says about one batch.

    Parameters
    ----------
    rows : Dataset or None
        Floating-point variables whose first dimension is ``image``, of the batch's length.
        Undefined is NaN. All other coordinates are equal in every batch.
    partial : Dataset or None
        Mergeable result without an ``image`` dimension (counts, sums, histograms); added up over
        batches and shards in a fixed order.
    """

    rows: xr.Dataset | None = None
    partial: xr.Dataset | None = None


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A conclusion that the report shows and a program can check.

    Parameters
    ----------
    name : str
        Stable identifier within its plugin, e.g. ``"best-channel"``.
    verdict : {"ok", "notice", "warning"}
    statement : str
        One sentence, plain text, true as it stands, that names its control.
    effect : float or None
        The number that the statement is about, in ``unit``.
    interval : (float, float) or None
        95 % interval over independent groups.
    n, groups : int or None
        Images and independent groups behind the number.
    unit : str
    control : str
        What it was compared with; empty only if there is nothing to compare.
    """

    name: str
    verdict: Verdict
    statement: str
    effect: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    groups: int | None = None
    unit: str = ""
    control: str = ""


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """Something that was chosen by its score: a threshold, a layer, an explainer, a channel.

    A choice is made by :func:`wsss_probe.sealed.choose` and bound to the images that it was made
    on: :func:`wsss_probe.sealed.scored` refuses to score it on any of them. The report lists every
    choice with the masks it consumed.

    Parameters
    ----------
    what : str
        ``"threshold at layer4"``.
    value : str, int or float
        The winner.
    measure : str
        What the candidates were compared by.
    score : float
        Of the winner, where it was chosen: optimistic.
    candidates : int
    split : str
        In words, which images.
    images, masks, groups : int
        How many images, masks and independent groups the choice consumed.
    seal : frozenset of str
        Digests of the names of these groups, and of the contents of the images.
    reopened : bool
        Whether it was scored on images that it was chosen on, because somebody asked for that.
    """

    what: str
    value: str | float
    measure: str
    score: float
    candidates: int
    split: str
    images: int
    masks: int
    groups: int
    seal: frozenset[str]
    reopened: bool = False


@final
@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a probe concludes over all images.

    Parameters
    ----------
    summary : Dataset
    findings : tuple of Finding
    choices : tuple of Choice
        What was chosen by score on the way; the report's ledger shows them.
    map_scores : mapping of str to DataArray, (image, explainer)
        Scores of single relevance maps, by a short name (``"Dice"``); the gallery shows them under
        each map. The coordinate ``explainer`` holds ``"<explainer>, <layer>"``.
    """

    summary: xr.Dataset
    findings: tuple[Finding, ...] = ()
    choices: tuple[Choice, ...] = ()
    map_scores: Mapping[str, xr.DataArray] = field(default_factory=dict)


# -- what the report is made of ---------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph or more, in Markdown; raw HTML is shown as text."""

    markdown: str


@final
@dataclass(frozen=True, slots=True)
class Table:
    """A table; the report sorts it on a click and offers it as CSV.

    Parameters
    ----------
    frame : DataFrame
        Columns in the order shown; floats are shown with three significant digits.
    caption : str
        What a row is, with n, interval and control where numbers are compared.
    details : mapping of int to Gallery
        By position of the row: pictures that the row opens.
    meanings : mapping of str to str
        By column: one line that its header shows when asked.
    """

    frame: pd.DataFrame
    caption: str
    details: Mapping[int, Gallery] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """A plotly figure with what a reader needs to trust it.

    Parameters
    ----------
    figure : dict
        ``plotly.graph_objects.Figure.to_plotly_json()``, or any JSON-able ``{"data", "layout"}``.
    caption : str
        What is seen, with n, interval and control.
    definition : str
        How the numbers are defined (formula, reference), plain text.
    data : DataFrame or None
        The numbers shown, offered as CSV.
    """

    figure: Mapping[str, Any]
    caption: str
    definition: str = ""
    data: pd.DataFrame | None = None


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a gallery.

    Parameters
    ----------
    pixels : ndarray of uint8, (row, column, 3) or None
        None shows a placeholder (image not readable).
    label : str
        Line below the picture.
    overlay : ndarray of float or None, (row, column)
        Map on its native grid, laid over the picture; signed maps get a diverging colour scale
        around 0, others a sequential one, each scaled by its own largest absolute value.
    outline : ndarray of bool or None, (row, column)
        Mask whose border is drawn; any grid.
    note : str
        A quieter line below the label: scores of this map, say.
    common : (float, float) or None
        Lowest and highest value of the maps that this one is compared with; the reader may switch
        from each map's own scale to this one.
    """

    pixels: np.ndarray | None
    label: str
    overlay: np.ndarray | None = None
    outline: np.ndarray | None = None
    note: str = ""
    common: tuple[float, float] | None = None


@final
@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows of pictures; each row has a title (an image's name, say)."""

    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    caption: str


Block = Text | Table | Figure | Gallery


@final
@dataclass(frozen=True, slots=True)
class Section:
    """What a plugin adds to the report.

    Parameters
    ----------
    question : Question
        Where the section stands.
    title : str
    blocks : tuple of Block
    """

    question: Question
    title: str
    blocks: tuple[Block, ...]


# -- what plugins offer -----------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class DefinitionCard:
    """What a method computes and when not to believe it; shown in the report and in docs.

    Parameters
    ----------
    title, formula, paper : str
        ``paper`` is ``Authors (year), title, doi or arXiv id``; ``formula`` is plain text.
    symbols : str
        The formula's symbols in words.
    invariances : tuple of str
        Changes that leave the result as it is.
    misleads : str
        When the result misleads.
    bibtex : str
    """

    title: str
    formula: str
    paper: str
    symbols: str = ""
    invariances: tuple[str, ...] = ()
    misleads: str = ""
    bibtex: str = ""


class Explainer(ABC):
    """A way to turn a network's activations and gradients into a relevance map.

    Attributes
    ----------
    name : str
        Lower case, unique over all plugins; names the table ``relevance/<name>/<layer>``.
    card : DefinitionCard
    gradients : bool
        Whether it reads ``batch.gradients``.
    default : bool
        Whether an audit computes it unasked. False for what costs many passes an image, and for
        variants that are of interest beside others only; ``--explain`` asks for them.
    grid : {"layer", "input"}
        Whether the map lies on a layer's grid or on the network's input. In the second case the
        host asks once, with the layer :data:`INPUT`.
    """

    name: str
    card: DefinitionCard
    gradients: bool
    default: bool = True
    grid: Literal["layer", "input"] = "layer"

    def accepts(self, layer: LayerInfo, head: Head) -> str:
        """Say why ``layer`` does not suit; an empty string when it does.

        Parameters
        ----------
        layer : LayerInfo
            The input itself, of type ``Input``, for an explainer whose grid is the input.
        head : Head

        Returns
        -------
        str
        """
        if layer.layout == "maps":
            return ""
        why = f" ({layer.reason})" if layer.reason else ""
        return f"needs maps, the output has shape {layer.shape}{why}"

    def reads(self, layer: str, layers: Mapping[str, LayerInfo]) -> tuple[str, ...]:
        """Name the layers whose activations, and gradients if any, it reads for a map at ``layer``.

        Parameters
        ----------
        layer : str
        layers : mapping of str to LayerInfo
            The audited layers, in the order of execution.

        Returns
        -------
        tuple of str
            By default the layer itself; nothing for a map on the input.
        """
        return (layer,) if self.grid == "layer" else ()

    def explains(self, target: Target) -> Target:
        """Name the target whose gradient it reads when asked for ``target``; by default that one.

        ``attribute`` finds it as ``batch.gradients[layer, self.explains(target)]``, and its weights
        as ``batch.targets[self.explains(target)]``.
        """
        return target

    @abstractmethod
    def attribute(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Evidence for each image's target at each position of the grid.

        Parameters
        ----------
        batch : Batch
        layer : str
            :data:`INPUT` where the grid is the input.
        target : Target

        Returns
        -------
        Tensor, (image, row, column)
            Signed where the method is; never normalised; NaN where undefined.
        """


class Probe(ABC):
    """One analysis. Streaming probes implement :meth:`observe`; all implement :meth:`conclude`.

    Attributes
    ----------
    name : str
        Lower case, unique over all plugins; names the table ``probes/<name>``.
    options : mapping
        JSON-able settings; they enter the plan's hash and ``run.json``.
    """

    name: str
    options: Mapping[str, Any] = {}

    def split(self, survey: Survey) -> Iterable[Probe]:
        """Make copies of this probe, one per layer say, each with its own name.

        The host calls it once, after planning, and runs what it returns instead of the probe; so
        layers of different width become different tables. Name a copy ``<name>@<layer>``: the
        host escapes names for paths. By default the probe runs as it is.

        Parameters
        ----------
        survey : Survey

        Returns
        -------
        iterable of Probe
            Empty when nothing in this survey suits the probe.
        """
        return (self,)

    @abstractmethod
    def needs(self, survey: Survey) -> Needs:
        """Ask the survey for layers, gradients, labels, masks or other probes' summaries."""

    def observe(self, batch: Batch) -> Observation | None:
        """Turn a batch into rows and/or a mergeable partial; must not depend on other batches."""
        return None

    @abstractmethod
    def conclude(self, run: Run) -> Conclusion:
        """Conclude over all images; ``run`` reads this run and its controls."""

    def sections(self, summary: xr.Dataset, run: Run) -> Iterable[Section]:
        """Sections for the report."""
        return ()


@final
@dataclass(frozen=True, slots=True)
class ChannelColumn:
    """One column of the channel passport: what one analysis says about every channel of a layer.

    Parameters
    ----------
    name : str
        Header, unique within the layer: ``"F1 gland"``.
    values : sequence of float, str or bool, (channel,)
        By channel, from 0; undefined is NaN or an empty text.
    meaning : str
        One line: definition, unit, n and control.
    order : float
        Columns stand by it from left to right; 0 is the evidence that is read first.
    """

    name: str
    values: Sequence[Any]
    meaning: str
    order: float = 50.0


class ChannelColumns(ABC):
    """Columns for the channel passport, joined by ``channel`` with those of every other plugin.

    Attributes
    ----------
    name : str
        Lower case, unique over all plugins.
    """

    name: str

    @abstractmethod
    def columns(self, run: Run, layer: str) -> Iterable[ChannelColumn]:
        """Say what is known about every channel of a layer.

        Parameters
        ----------
        run : Run
            Finished; ``run.summary_names`` names the probes that have a summary.
        layer : str
            An audited layer with maps.

        Returns
        -------
        iterable of ChannelColumn
            Empty when nothing is known about this layer.
        """


@final
@dataclass(frozen=True, slots=True)
class View:
    """One image as a concept measure is shown it: what the network sees, before it becomes numbers.

    Parameters
    ----------
    pixels : ndarray, (row, column, channel)
        uint8 with three channels, resized and cropped as for the network; float32 network input for
        images that were handed over in memory, about whose pixels nothing is known.
    mask : ndarray of int or None, (row, column)
        Position in ``mask_classes`` of each pixel; -1 is ignored or unknown, -2 is background.
    mask_classes : tuple of str
    objects : ndarray of int or None, (row, column)
        Number of the annotated object at each pixel, 0 in none; None where masks hold classes only.
    """

    pixels: np.ndarray
    mask: np.ndarray | None = None
    mask_classes: tuple[str, ...] = ()
    objects: np.ndarray | None = None


@final
@dataclass(frozen=True, slots=True)
class Concept:
    """A quantity that every image has one value of, and that people have a name for.

    Parameters
    ----------
    name : str
        Unique within its measure, lower case: ``"contrast"``, ``"area, mean"``.
    meaning : str
        One line: definition and region.
    unit : str
        Empty for a pure number.
    """

    name: str
    meaning: str
    unit: str = ""


class ConceptMeasure(ABC):
    """A way to measure concepts in an image, without any network.

    The host measures each image once, in several processes, and keeps the values for every probe;
    so a measure must be picklable and must not depend on other images.

    Attributes
    ----------
    name : str
        Lower case, unique over all plugins; concepts are known as ``<measure>/<concept>``.
    card : DefinitionCard
    default : bool
        Whether an audit computes it unasked; ``--concepts`` asks for others.
    """

    name: str
    card: DefinitionCard
    default: bool = True

    @abstractmethod
    def concepts(self, mask_classes: Sequence[str], objects: bool) -> Sequence[Concept]:
        """Name what is measured, in order.

        Parameters
        ----------
        mask_classes : sequence of str
            Empty for a manifest without masks.
        objects : bool
            Whether masks number objects.

        Returns
        -------
        sequence of Concept
            Empty where the data lack what this measures.
        """

    @abstractmethod
    def measure(self, view: View) -> Mapping[str, float | str]:
        """Measure one image.

        Parameters
        ----------
        view : View

        Returns
        -------
        mapping of str to float or str
            By name of the concept: its value or, where it is undefined, a text that says why. Every
            announced concept is there, also for an image without the mask or the objects that
            others have; more may be.
        """


@final
@dataclass(frozen=True, slots=True)
class ModelSource:
    """A family of networks that a plugin can build by name.

    Parameters
    ----------
    name : str
        As in ``--model <name>`` and in a model card's ``source``.
    summary : str
    build : callable
        ``build(arguments) -> nn.Module``, without weights; raises ``ModelError``.
    """

    name: str
    summary: str
    build: Callable[[Mapping[str, Any]], nn.Module]


@final
@dataclass(frozen=True, slots=True)
class Command:
    """A command that a plugin adds to the command line, imported only when it runs.

    Parameters
    ----------
    name : str
        One or two words: ``"train gap"`` adds ``gap`` to the group ``train``.
    summary : str
        One line for ``--help``.
    target : str
        ``module:function``; the function's annotated parameters become typer options.
    """

    name: str
    summary: str
    target: str


# -- what conclude and sections read ----------------------------------------------------------


class Network(Protocol):
    """The same survey on another network: same images, same layers, other weights."""

    @property
    def name(self) -> str:
        """Kind and seed of a control, ``shuffled-0``; the key under ``[models]`` of a further network."""

    @property
    def made(self) -> str:
        """How it was made, in words: ``weights start.safetensors``, ``as control reinit-0``."""

    def alive(self, layer: str) -> bool:
        """Whether this layer responds to images at all.

        A dead one (median spread of pooled features below 1 % of the audited network's) allows no
        verdict.
        """

    @property
    def survey(self) -> Survey:
        """What was planned, with the network's own head."""

    @property
    def logits(self) -> xr.DataArray:
        """Logits, (image, class)."""

    def pooled(self, layer: str) -> xr.DataArray:
        """Spatial mean of a layer's maps, (image, channel)."""

    def rows(self, probe: str) -> xr.Dataset:
        """Rows of a probe, as in the audited run."""

    def partial(self, probe: str) -> xr.Dataset:
        """Partial of a probe, merged over all shards."""


class Control(Network, Protocol):
    """The same survey on a network that has learned nothing."""


class Run(Protocol):
    """A finished survey, as ``conclude`` and ``sections`` read it; all tables are lazy."""

    @property
    def survey(self) -> Survey:
        """What was planned."""

    @property
    def path(self) -> Path:
        """The run folder."""

    @property
    def images(self) -> pd.DataFrame:
        """The manifest, one row per image: image, label, mask, group, split, covariates.

        ``readable`` says whether it could be read; ``name`` is unique and fit for people, also for
        tiles of one image.
        """

    @property
    def groups(self) -> np.ndarray | None:
        """Unit of independence of each image, or None if images are treated as independent."""

    @property
    def contents(self) -> np.ndarray | None:
        """Digest of each image's file, by which it is known again under another name.

        Empty for a file that cannot be read; None where images come from nowhere that can be hashed.
        """

    @property
    def logits(self) -> xr.DataArray:
        """Logits, (image, class)."""

    @property
    def controls(self) -> Sequence[Control]:
        """Controls, in the order of their names; may be empty."""

    @property
    def networks(self) -> Sequence[Network]:
        """Further networks of the same architecture, as the run file names them; may be empty.

        They stand beside the audited network (random, pretrained, another checkpoint) and are no
        controls: some of them have learned.
        """

    @property
    def concepts(self) -> xr.Dataset:
        """Concepts that were measured in the images, and the covariates of the manifest.

        ``value`` (image, concept), NaN where undefined; coordinates by ``concept``: its name
        ``<measure>/<concept>`` (``manifest/<column>`` for covariates), ``unit``, ``meaning``, and
        ``reason``, why it is undefined for most of the images that lack it (empty if for none).
        """

    @property
    def not_testable(self) -> str:
        """Why no conclusion may rest on this classifier; an empty text when one may.

        It may not when the AUC on held-out labelled images has a lower bound under 0.7. Statements
        about class evidence then say ``not testable here`` and give this reason. Without labels the
        text is empty, since nothing is known against the classifier, and the report says so.
        """

    def rows(self, probe: str) -> xr.Dataset:
        """Rows of a probe, dims ``image, …``; NaN for unreadable images."""

    def partial(self, probe: str) -> xr.Dataset:
        """Partial of a probe, merged over all shards."""

    def summary(self, probe: str) -> xr.Dataset:
        """Summary of a probe named in ``Needs.tables``."""

    @property
    def summary_names(self) -> frozenset[str]:
        """Names of the probes that have a summary by now."""

    def pooled(self, layer: str) -> xr.DataArray:
        """Spatial mean of a layer's maps, (image, channel)."""

    def relevance(self, explainer: str, layer: str) -> xr.Dataset | None:
        """Relevance maps, (image, row, column), or None if they were not stored."""

    def picture(self, index: int) -> np.ndarray | None:
        """The network's view of an image, uint8 (row, column, 3), or None if unreadable."""

    def mask(self, index: int) -> np.ndarray | None:
        """The mask of an image on the input grid, -1 ignored, or None."""

    def activations(self, index: int, layer: str) -> np.ndarray | None:
        """Maps of one image, (channel, row, column), stored or computed again."""

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """Network inputs of some images, preprocessed, (image, channel, row, column).

        NaN for an image that cannot be read.
        """

    def explain(
        self,
        images: Tensor,
        pairs: Sequence[Pair],
        target: Target | Tensor = "predicted",
        module: nn.Module | None = None,
    ) -> Mapping[Pair, Tensor]:
        """Relevance maps of any network inputs, by any explainer of this audit, on any weights.

        Parameters
        ----------
        images : Tensor, (image, channel, row, column)
            Perturbed ones, say.
        pairs : sequence of (str, str)
            Out of ``survey.relevance``.
        target : Target, or Tensor of int64 (image,)
            A tensor fixes the class of each image.
        module : nn.Module, optional
            Another network with the same layers, such as a changed copy of :meth:`model`.

        Returns
        -------
        mapping of (str, str) to Tensor, (image, row, column)
            One forward pass, and one backward pass, for all of them together.
        """

    def model(self) -> nn.Module:
        """A copy of the audited network, in eval mode; yours to change."""
