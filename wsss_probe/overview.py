"""The host's own sections: what was audited, what failed, how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from wsss_probe.atomic import write_atomically
from wsss_probe.contracts import Block, Finding, Section, Table, Text
from wsss_probe.errors import CorruptRunError
from wsss_probe.findings import HOST
from wsss_probe.gallery import relevance_section
from wsss_probe.ledger import ledger_sections, masks_consumed
from wsss_probe.names import display
from wsss_probe.report import Document, dumps, loads, write

if TYPE_CHECKING:
    from pathlib import Path

    from wsss_probe.contracts import LayerInfo
    from wsss_probe.made import Made
    from wsss_probe.preparation import Prepared
    from wsss_probe.run import AuditedRun

__all__ = ["render_again", "write_report"]

_SHOWN_CLASSES: Final = 12
_SHOWN_ROWS: Final = 50
_SHOWN_LINES: Final = 30


def write_report(prepared: Prepared, run: AuditedRun, record: Mapping[str, Any], made: Made) -> None:
    """Write ``report.json`` and ``report.html`` into the run folder.

    Parameters
    ----------
    prepared : Prepared
    run : AuditedRun
    record : mapping
        What ``run.json`` will hold.
    made : Made
        By the host and the plugins.
    """
    own = (
        _subject(prepared, run, record, made),
        relevance_section(prepared, run, made.map_scores),
        _failures(run, record),
        *ledger_sections(made.choices),
        _made(record),
    )
    document = Document(
        title=f"Audit of {display(str(record['model']['name']))}",
        subtitle=_subtitle(prepared, record, made.findings),
        findings=tuple(made.findings),
        sections=(*own, *made.sections),
        cards=tuple((o.plugin, o.item.card) for o in prepared.explainers),
        provenance=_provenance(record),
    )
    write_atomically(run.path / "report.json", dumps(document))
    write(document, run.path / "report.html")


def render_again(folder: Path) -> Path:
    """Write ``report.html`` of a finished run again, from what the run keeps.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Path
        The report.

    Raises
    ------
    CorruptRunError
        When the run does not keep its report, or not as it was written.
    """
    try:
        text = (folder / "report.json").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        msg = f"'{folder / 'report.json'}' cannot be read"
        raise CorruptRunError(msg, found=str(error), remedy="delete the folder and run again") from error
    write(loads(text), folder / "report.html")
    return folder / "report.html"


def _subtitle(prepared: Prepared, record: Mapping[str, Any], findings: Sequence[tuple[str, Finding]]) -> str:
    """How good the classifier is, first of all; then what was audited."""
    explainers = len(prepared.explainers)
    counts = {
        "image": record["data"]["images"],
        "layer": len(record["layers"]),
        "explainer": explainers,
        "probe": len(record["probes"]) - explainers,
        "control network": len(record["controls"]),
        **({"further network": len(record["networks"])} if record["networks"] else {}),
    }
    size = ", ".join(f"{number} {what}{'s' * (number != 1)}" for what, number in counts.items())
    judged = next((f for plugin, f in findings if (plugin, f.name) == (HOST, "classifier")), None)
    if judged is None or judged.effect is None or judged.interval is None:
        return f"Classifier not judged. {size}."
    low, high = judged.interval
    return (
        f"Classifier: AUC {judged.effect:.3f} [{low:.3f}, {high:.3f}] on {judged.n} labelled images. {size}."
    )


# -- the subject -------------------------------------------------------------------------------


def _subject(prepared: Prepared, run: AuditedRun, record: Mapping[str, Any], made: Made) -> Section:
    facts = [*_model_facts(run, record), *_data_facts(prepared, run, record), *_choice_facts(made)]
    frame = pd.DataFrame(facts, columns=["what", "value"])
    layers = pd.DataFrame(
        [
            (i.name, i.type, "×".join(map(str, i.shape)), _layout(i), i.stride, i.receptive_field)
            for i in run.survey.layers.values()
        ],
        columns=[
            "layer",
            "type",
            "channels × rows × columns",
            "layout",
            "input pixels per cell",
            "receptive field (px)",
        ],
    )
    blocks: list[Block] = [
        Table(frame, "The network and the data, as they were read."),
        Table(layers, f"Audited layers. Why these: {record['layers_reason']}."),
    ]
    counts = _label_counts(prepared)
    if counts is not None:
        caption = "Readable and unreadable images per label, as the manifest says."
        blocks.append(Table(counts.head(_SHOWN_ROWS), caption + _cut(counts)))
    return Section("verdict", "What was audited", tuple(blocks))


def _layout(info: LayerInfo) -> str:
    """How the network orders the maps, and what there is to say about it."""
    own = str(info.native) if info.layout == "maps" else info.layout
    return f"{own} ({info.reason})" if info.reason else own


def _model_facts(run: AuditedRun, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model = record["model"]
    head = run.survey.head
    classes = run.survey.classes
    yield "network", display(str(model["name"]))
    yield "weights", display(str(model.get("weights", "") or "as handed over"))
    yield "precision", f"{model.get('precision', '')}; maps and logits are kept in float32"
    yield "SHA-256 of the tensors", str(model.get("tensor_digest", ""))
    shown = ", ".join(display(name) for name in classes[:_SHOWN_CLASSES])
    yield "classes", f"{len(classes)}: {shown}{' …' if len(classes) > _SHOWN_CLASSES else ''}"
    if head.linear:
        yield "head", f"linear on the mean of {head.layer}, proved to {head.error:.1e} of the largest logit"
    else:
        yield "head", f"not linear: {head.reason}"
    yield (
        "preprocessing",
        json.dumps(record["preprocessing"]) if record["preprocessing"] else "none (in memory)",
    )


def _data_facts(prepared: Prepared, run: AuditedRun, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    unreadable = record["data"]["unreadable"]
    yield "images", f"{record['data']['images']}, of which {unreadable} could not be read"
    groups = run.groups
    if groups is None:
        yield "groups", "none given: images treated as independent, so intervals may be too narrow"
    else:
        yield "groups", f"{len(set(groups.tolist()))} independent groups; intervals resample groups"
    masks = prepared.survey.mask_classes
    yield "mask classes", ", ".join(display(name) for name in masks) or "no masks"
    yield "network input", "×".join(map(str, run.survey.input_shape))


def _choice_facts(made: Made) -> Iterator[tuple[str, str]]:
    if made.choices:
        consumed, number = masks_consumed(made.choices), len(made.choices)
        said = f"{consumed}, by {number} choice{'s' * (number != 1)} by score; the ledger lists them"
        yield "masks consumed by choices", said


def _label_counts(prepared: Prepared) -> pd.DataFrame | None:
    frame = prepared.subject.manifest.frame
    if not (frame["label"] != "").any():
        return None
    counts = frame.groupby(["label", "split"], sort=True).size().reset_index(name="images")
    counts["label"] = [display(str(label)) or "–" for label in counts["label"]]
    counts["split"] = [display(str(split)) or "–" for split in counts["split"]]
    return counts


def _cut(frame: pd.DataFrame) -> str:
    """Say so where a table does not show all of its rows."""
    return f" The first {_SHOWN_ROWS} of {len(frame)} rows." if len(frame) > _SHOWN_ROWS else ""


# -- what failed, how it was made --------------------------------------------------------------


def _failures(run: AuditedRun, record: Mapping[str, Any]) -> Section:
    blocks: list[Block] = []
    for failure in record["failures"]:
        who = f"{failure['plugin']} ({failure['distribution']} {failure['version']})"
        trace = str(failure["traceback"]).splitlines()[-_SHOWN_LINES:]
        said = _verbatim([*str(failure["message"]).splitlines(), "", *trace])
        blocks.append(Text(f"{_plain(who)}, {_plain(failure['stage'])} {_plain(failure['item'])}:\n\n{said}"))
    quarantine = pd.read_csv(run.path / "quarantine.csv", keep_default_na=False, dtype=str)
    if len(quarantine):
        caption = (
            f"Images, masks and outputs of the network that could not be used ({len(quarantine)}); "
            f"they count nowhere.{_cut(quarantine)}"
        )
        blocks.append(Table(quarantine.head(_SHOWN_ROWS), caption))
    if record["refused"]:
        frame = pd.DataFrame(record["refused"], columns=["explainer", "layer", "why it does not suit"])
        blocks.append(Table(frame, "Explainers that were not run at a layer."))
    if not blocks:
        blocks.append(Text("Nothing: every plugin ran, every image and mask could be read."))
    return Section("failed", "Failures and exclusions", tuple(blocks))


def _verbatim(lines: Sequence[str]) -> str:
    """Make a block of Markdown in which every character stands for itself."""
    return "\n".join(f"    {line}" for line in lines)


def _plain(text: str) -> str:
    """Escape Markdown; names come from strangers' packages."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", display(str(text)))


def _made(record: Mapping[str, Any]) -> Section:
    options = {key: value for key, value in record["options"].items() if value not in ("", [], {}, None)}
    lines = _verbatim([f"{key} = {json.dumps(value)}" for key, value in options.items()])
    command = _verbatim([display(str(record["command"]), longest=None)])
    text = (
        "The command below computes the same tables again; on a finished run with the same plan it computes "
        f"nothing.\n\n{command}\n\nOptions, as resolved:\n\n{lines}\n"
    )
    versions = pd.DataFrame(sorted(record["libraries"].items()), columns=["library", "version"])
    probes = pd.DataFrame(
        [(p["name"], p["plugin"], p["version"], json.dumps(p["options"])) for p in record["probes"]],
        columns=["method", "plugin", "version", "options"],
    )
    blocks: tuple[Block, ...] = (
        Text(text),
        Table(probes, "Methods that ran, with the plugin that offers them."),
        Table(versions, "Libraries that can change a number."),
    )
    return Section("how", "Reproduction", blocks)


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    certificate = record["certificate"]
    return {
        "plan": record["plan"],
        "started": record["started"],
        "seconds": record["seconds"],
        "non-interference": "bit-identical"
        if certificate["intact"]
        else "; ".join(certificate["differences"]),
        "parameters": certificate["parameters_sha256"],
        "buffers": certificate["buffers_sha256"],
    }
