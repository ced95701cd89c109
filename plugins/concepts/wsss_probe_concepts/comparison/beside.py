"""The networks of a run beside one another: which there are, which pairs are compared, which are alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

if TYPE_CHECKING:
    from wsss_probe.contracts import Network, Run

__all__ = ["AUDITED", "Beside", "compared_pairs", "networks_of"]

AUDITED: Final = "audited"
"""Name of the audited network among the others."""


@final
@dataclass(frozen=True, slots=True)
class Beside:
    """One network of a run.

    Parameters
    ----------
    name : str
    kind : {"audited", "network", "control"}
    tables : Run or Network
        Its survey.
    """

    name: str
    kind: Literal["audited", "network", "control"]
    tables: Run | Network

    @property
    def made(self) -> str:
        """How it was made, in words; empty for the audited network, of which the report tells elsewhere."""
        return "" if self.kind == "audited" else str(self.tables.made)  # type: ignore[union-attr]

    def alive(self, layer: str) -> bool:
        """Whether a layer responds to images; of the audited network it counts as alive."""
        return self.kind == "audited" or bool(self.tables.alive(layer))  # type: ignore[union-attr]


def networks_of(run: Run) -> tuple[Beside, ...]:
    """List the networks of a run.

    Parameters
    ----------
    run : Run

    Returns
    -------
    tuple of Beside
        The audited one, further networks as the run file names them, controls.
    """
    others = [Beside(network.name, "network", network) for network in run.networks]
    return (
        Beside(AUDITED, "audited", run),
        *others,
        *(Beside(control.name, "control", control) for control in run.controls),
    )


def compared_pairs(run: Run) -> tuple[tuple[str, str], ...]:
    """Pairs of networks that findings are about.

    Parameters
    ----------
    run : Run

    Returns
    -------
    tuple of (str, str)
        The audited network and each further one, then each further one and the one before it in the run
        file: a file that names random, pretrained and finetuned in this order compares each with what it
        was made from. The second of a pair is what the first is compared with.
    """
    names = [network.name for network in run.networks]
    return (*((AUDITED, name) for name in names), *zip(names[1:], names, strict=False))
