"""The store writes whole shards, knows what is finished, and never holds half a table."""

import json

import numpy as np
import pytest
import xarray as xr

from wsss_probe.atomic import write_atomically
from wsss_probe.errors import CorruptRunError, PlanError
from wsss_probe.store import LedgerLine, Store, TableBlock, exclusive, open_tree


def line(shard=0, stage="0", plan_id="plan"):
    """An empty ledger line."""
    return LedgerLine(stage, shard, plan_id, {}, {}, {})


def rows(values, name="value"):
    """A table of one variable over images."""
    values = np.asarray(values, dtype=np.float32)
    dims = ("image", "channel", "row", "column")[: values.ndim]
    return TableBlock({name: (dims, values)})


@pytest.fixture
def store(tmp_path):
    """Ten images in shards of four."""
    return Store(tmp_path, images=10, shard=4, plan_id="plan")


class TestWriting:
    def test_reads_what_was_written(self, store):
        """The table read back equals the shards written, in order."""
        data = np.arange(20, dtype=np.float32).reshape(10, 2)
        for shard in range(store.shards):
            low, high = store.bounds(shard)
            store.write(line(shard), {"probes/a/rows": rows(data[low:high])})

        np.testing.assert_array_equal(data, store.tree()["probes/a/rows/value"].values)

    def test_missing_shard_reads_as_nan(self, store):
        """A shard that was never written is NaN, not zero."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})

        assert np.isnan(store.tree()["a/value"].values[4:]).all()

    def test_zero_shard_is_on_disk(self, store):
        """A shard of zeros, such as a dead channel, is written all the same."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})

        assert (store.tree()["a/value"].values[:4] == 0).all()

    def test_wide_maps_are_sharded(self, tmp_path):
        """Large maps get one file per shard with smaller chunks inside."""
        store = Store(tmp_path, images=32, shard=32, plan_id="plan")
        store.write(line(), {"a": rows(np.random.rand(32, 64, 28, 28), "maps")})
        array = store._root["a/maps"]

        assert array.shards == (32, 64, 28, 28)
        assert array.chunks[0] == 16
        assert 64 % array.chunks[1] == 0

    def test_coordinates_with_text(self, store):
        """Text coordinates survive, whatever is in them."""
        names = np.array(["a", "<script>", "ü\n"], dtype=object)
        block = TableBlock(
            {"value": (("image", "class"), np.zeros((4, 3), np.float32))}, {"class": (("class",), names)}
        )
        store.write(line(), {"a": block})

        assert list(store.tree()["a"]["class"].values) == list(names)

    def test_image_coordinate_is_inherited(self, store):
        """Every table sees the image coordinate of the root."""
        store.write_coordinate("image", np.arange(10))
        store.write(line(), {"a/b": rows(np.zeros((4, 2)))})

        assert list(store.tree()["a/b"]["image"].values) == list(range(10))

    def test_shape_change_is_an_error(self, store):
        """A table that changes its shape between shards is refused by name."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})

        with pytest.raises(CorruptRunError, match="'a/value' changed its shape"):
            store.write(line(1), {"a": rows(np.zeros((4, 3)))})

    def test_unaligned_write_is_an_error(self, store):
        """A region that is no whole shard is refused before anything is written."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})
        array = store._root["a/value"]

        with pytest.raises(CorruptRunError, match="not aligned"):
            store._put(array, slice(2, 6), np.zeros((4, 2)))

    def test_static_table_replaces_an_older_one(self, store):
        """Writing a static table twice leaves the second."""
        store.write_static("s", xr.Dataset({"x": ("channel", [1.0, 2.0])}))
        store.write_static("s", xr.Dataset({"x": ("channel", [3.0])}))

        assert list(store.tree()["s/x"].values) == [3.0]


class TestHalfPrecision:
    def test_maps_are_kept_in_half_precision(self, store):
        """Maps go to float16, other tables stay float32."""
        store.write(line(), {"a": rows(np.full((4, 1, 2, 2), 1.5), "maps"), "b": rows(np.ones((4, 1)))})

        assert store.tree()["a/maps"].dtype == np.float16
        assert store.tree()["b/value"].dtype == np.float32

    def test_large_first_shard_upgrades_the_layer(self, store):
        """A layer whose first shard exceeds half precision is kept in float32."""
        store.write(line(), {"a": rows(np.full((4, 1, 2, 2), 70000.0), "maps")})

        assert store.tree()["a/maps"].values[0, 0, 0, 0] == 70000.0

    def test_later_overflow_is_clipped_and_counted(self, store):
        """Overflow in a later shard never becomes infinite, and its number is in the ledger."""
        store.write(line(0), {"a": rows(np.ones((4, 1, 2, 2)), "maps")})
        big = np.ones((4, 1, 2, 2))
        big[0, 0, 0, 0], big[1, 0, 0, 0] = 1e6, -1e6
        written = store.write(line(1), {"a": rows(big, "maps")})

        assert written.counters["a/maps:overflow"] == 2
        values = store.tree()["a/maps"].values[4:8].astype(np.float64)
        assert np.isfinite(values).all()
        assert (values.max(), values.min()) == (65504.0, -65504.0)

    def test_underflow_is_counted(self, store):
        """Values too small for half precision are counted."""
        written = store.write(line(0), {"a": rows(np.full((4, 1, 1, 1), 1e-9), "maps")})

        assert written.counters["a/maps:underflow"] == 4


class TestLedger:
    def test_done_only_after_writing(self, store):
        """A shard is done once its line is written, not before."""
        assert store.done("0", 0) is None
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})
        assert store.done("0", 0).arrays.keys() == {"a/value"}
        assert store.done("1", 0) is None

    def test_line_of_another_plan_does_not_count(self, store, tmp_path):
        """A ledger of another plan is ignored."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})

        assert Store(tmp_path, 10, 4, "other").done("0", 0) is None

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "0"}'])
    def test_damaged_line_does_not_count(self, store, text):
        """A line that was cut short means the shard is done again."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})
        store._ledger_path("0", 0).write_text(text)

        assert store.done("0", 0) is None

    def test_line_without_its_array_does_not_count(self, store):
        """A ledger line whose array is gone means the shard is done again."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})
        del store._root["a/value"]

        assert store.done("0", 0) is None

    def test_hash_is_that_of_the_stored_bytes(self, store):
        """The ledger's hash can be checked against the array on disk."""
        import hashlib

        written = store.write(line(0), {"a": rows(np.random.rand(4, 2))})
        stored = np.ascontiguousarray(store.tree()["a/value"].values[:4])

        assert written.arrays["a/value"] == hashlib.sha256(stored.tobytes()).hexdigest()

    def test_sweep_removes_leftovers(self, store, tmp_path):
        """Temporary files of a killed writer are removed."""
        (tmp_path / "data.zarr" / "x.partial").write_text("")
        (tmp_path / "ledger").mkdir()
        (tmp_path / "ledger" / "y.tmp").write_text("")

        assert store.sweep() == 2
        assert not list(tmp_path.rglob("*.partial"))

    def test_memory_store_needs_no_folder(self):
        """A store in memory reads back what was written and knows its size."""
        store = Store(None, 4, 4, "plan")
        store.write(line(0), {"a": rows(np.ones((4, 2)))})

        assert store.tree()["a/value"].values.sum() == 8
        assert store.done("0", 0)
        assert store.bytes_stored() > 0


class TestFiles:
    def test_atomic_write_replaces(self, tmp_path):
        """The second text replaces the first and no temporary file stays."""
        target = tmp_path / "deep" / "x.json"
        write_atomically(target, json.dumps([1]))
        write_atomically(target, json.dumps([2]))

        assert json.loads(target.read_text()) == [2]
        assert [p.name for p in target.parent.iterdir()] == ["x.json"]

    def test_failed_write_leaves_the_old_file(self, tmp_path):
        """An error while writing leaves the old content and no temporary file."""
        target = tmp_path / "x"
        write_atomically(target, "old")
        with pytest.raises(UnicodeEncodeError):
            write_atomically(target, "\udcff")

        assert target.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_second_writer_is_refused(self, tmp_path):
        """Two writers of one folder: the second is told so."""
        with exclusive(tmp_path / "r"), pytest.raises(PlanError, match="another process"):
            with exclusive(tmp_path / "r"):
                pass

    def test_open_tree_is_lazy(self, store, tmp_path):
        """Opening a store reads no data."""
        store.write(line(0), {"a": rows(np.zeros((4, 2)))})

        assert open_tree(tmp_path / "data.zarr")["a/value"].chunks is not None
