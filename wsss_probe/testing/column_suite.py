"""The conformance suite for columns of the channel passport.

>>> from wsss_probe.testing import ChannelColumnsSuite
>>> class TestColumns(ChannelColumnsSuite):
...     columns = ...  # yours
...     tables = {}  # summaries that they read
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from wsss_probe import offers
from wsss_probe.schema import check_channel_column, check_channel_columns
from wsss_probe.testing.runs import InMemoryRun, run_in_memory
from wsss_probe.testing.suites import Suite, untouched

if TYPE_CHECKING:
    import xarray as xr

    from wsss_probe.contracts import ChannelColumn, ChannelColumns
    from wsss_probe.testing.scenes import Scene

__all__ = ["ChannelColumnsSuite"]


class ChannelColumnsSuite(Suite):
    """The contract of columns for the channel passport as tests.

    Attributes
    ----------
    columns : ChannelColumns
        Set it in the subclass.
    tables : dict of str to Dataset
        Summaries that the columns read, by name of the probe, for the layers of the scene.
    """

    columns: ChannelColumns
    tables: dict[str, xr.Dataset] = {}  # noqa: RUF012  # read only; a subclass sets its own

    def run(self, scene: Scene, controls: int = 1) -> InMemoryRun:
        """Survey the scene, with the given summaries."""
        return run_in_memory((), scene, controls=controls, summaries=self.tables)

    def said(self, run: InMemoryRun) -> dict[str, tuple[ChannelColumn, ...]]:
        """Ask for the columns of every layer with maps, and check them."""
        layers = {name: info for name, info in run.survey.layers.items() if info.layout == "maps"}
        return {
            layer: tuple(
                check_channel_column(column, info.shape[0], self.columns.name)
                for column in check_channel_columns(self.columns.columns(run, layer), self.columns.name)
            )
            for layer, info in layers.items()
        }

    def test_is_complete(self) -> None:
        """The name can be shown and is text."""
        offers.check_channel_columns(self.columns)

    def test_says_something(self) -> None:
        """With its tables there is a column of one layer at least, and each has a value that is defined."""
        columns = [column for said in self.said(self.run(self.scene())).values() for column in said]

        assert columns, "no column; set tables or override scene()"
        assert any(value != "" and not pd.isna(value) for column in columns for value in column.values)

    def test_names_are_unique_within_a_layer(self) -> None:
        """No two columns of a layer share a name."""
        for said in self.said(self.run(self.scene())).values():
            names = [column.name for column in said]
            assert len(set(names)) == len(names)

    def test_is_deterministic(self) -> None:
        """Asking twice gives the same."""
        run = self.run(self.scene())

        assert repr(self.said(run)) == repr(self.said(run))

    def test_leaves_everything_as_it_is(self) -> None:
        """Network, random states, torch's settings, folder, environment and attributes stay untouched."""
        scene = self.scene()
        run, before = self.run(scene), repr(getattr(self.columns, "__dict__", None))
        with untouched(scene.network, scene.batch()):
            self.said(run)

        assert repr(getattr(self.columns, "__dict__", None)) == before

    def test_knows_nothing_without_tables(self) -> None:
        """A run in which no probe concluded gives columns or none, and no exception."""
        self.said(replace(self.run(self.scene()), summaries={}))

    def test_says_something_without_controls(self) -> None:
        """Without a control there are columns all the same, and no exception."""
        assert any(self.said(self.run(self.scene(), controls=0)).values())

    def test_takes_a_run_without_a_readable_image(self) -> None:
        """A run of NaN alone gives no exception and no warning of numpy."""
        scene = self.scene()
        self.said(self.run(scene.unreadable(range(len(scene.images)))))
