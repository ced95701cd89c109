"""Manifests: reading, discovery, writing, labels, tiles and splits."""

from __future__ import annotations

import doctest
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss_probe import table
from wsss_probe.errors import (
    ExitCode,
    ImageError,
    ManifestError,
    NothingToDoError,
    UnsafeInputError,
    UsageError,
)
from wsss_probe.manifest import (
    Manifest,
    MaskRule,
    MaskSpec,
    discover,
    read_manifest,
    split_by_group,
    tile,
    write_manifest,
)
from wsss_probe.names import display, natural_order, nearest

SHARED = Path(__file__).parents[2] / "shared" / "data"
GLANDS = (MaskRule("gland", "foreground", at_least=0.30), MaskRule("none", "foreground", at_most=0.02))


def save(path: Path, pixels: np.ndarray | None = None) -> Path:
    """Write pixels to an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8) if pixels is None else pixels).save(path)
    return path


def write(folder: Path, text: str | bytes, name: str = "manifest.csv") -> Path:
    """Write a file as it is."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def names_in(manifest: Manifest) -> list[str]:
    """List the images of a manifest."""
    return manifest.frame["image"].tolist()


# -- reading ----------------------------------------------------------------------------------


class TestRead:
    def test_columns_are_completed(self, tmp_path):
        """Five text columns are always there, covariates follow as text."""
        manifest = read_manifest(write(tmp_path, "stain,image\n0.50,a.png\n,b.png\n"))

        assert list(manifest.frame.columns) == ["image", "label", "mask", "group", "split", "stain"]
        assert manifest.frame.to_numpy().tolist() == [
            ["a.png", "", "", "", "", "0.50"],
            ["b.png", "", "", "", "", ""],
        ]
        assert (manifest.masks, manifest.groups, manifest.tiled) == (None, None, False)

    @pytest.mark.parametrize(
        "text",
        [b"\xef\xbb\xbfimage,label\r\na.png,x\r\n", b"image,label\n\na.png,x", b" image ,label\na.png,x\n"],
    )
    def test_marks_and_line_ends_do_not_matter(self, tmp_path, text):
        """BOM, CRLF, blank lines and spaces in the header give the same table."""
        plain = read_manifest(write(tmp_path, "image,label\na.png,x\n", "plain.csv"))

        assert read_manifest(write(tmp_path, text)).digest == plain.digest

    @pytest.mark.parametrize(
        "label",
        [
            "007",
            "NO",
            "nan",
            "None",
            "1e5",
            "<script>alert(1)</script>",
            "=cmd|' /C calc'!A0",
            "😀",
            "a\u202eb",
            "x" * 10_000,
            " a ",
            "-1",
            "é",
        ],
    )
    def test_labels_stay_text(self, tmp_path, label):
        """A label is what stands in the cell, whatever it looks like."""
        frame = pd.DataFrame({"image": ["a.png"], "label": [label]})
        write_manifest(Manifest(tmp_path, frame), tmp_path / "manifest.csv")
        manifest = read_manifest(tmp_path / "manifest.csv")

        assert manifest.frame["label"].tolist() == [label]
        assert manifest.label_names == (label,)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "an empty file"),
            ("img,label\na.png,x\n", "no column 'image'; found: img, label; remedy: rename column img"),
            ("image,label,label\na.png,x,y\n", "must differ; found: label"),
            ("image,\na.png,x\n", "without a name"),
            ("image,label\n", "no row"),
            ("image,label\na.png,x\n,y\n", "without an image; found: line 3"),
            ("image,label\na.png,x\nb.png\n", "1 cells, line 3; wanted: 2"),
            ("image,label\na.png,x,y\n", "3 cells, line 2; wanted: 2"),
            ('image,label\n"a\nb.png",x\nc.png\n', "1 cells, line 4"),
            ("image\na.png\nb.png\na.png\n", "listed twice; found: a.png, line 2 and line 4"),
            ("image\na.png\nsub/../a.png\n", "listed twice"),
            ("image,x,y\na.png,0,0\n", "incomplete; found: x, y"),
            ("image,x,y,width,height\na.png,0,0,8,0\n", "not in pixels; found: 0 in column height, line 2"),
            ("image,x,y,width,height\na.png,-1,0,8,8\n", "not in pixels"),
            ("image,x,y,width,height\na.png,1.5,0,8,8\n", "not in pixels"),
            ('image\n"a.png\n', "not CSV"),
            (b"image,label\na.png,\xe9\n", r"not UTF-8; found: \\xe9 in column label, line 2"),
            ("image\na.png\n".encode("utf-16"), "no column 'image'"),
            ("image\nhttps://example.org/a.png\n", "an address; found: https"),
            ("image\nfile:///etc/passwd\n", "an address"),
            ("image\nC:/a.png\n", "an address"),
            ("image\na\0b.png\n", "NUL"),
            ("image\nsub\\a.png\n", "backslashes; found: sub"),
        ],
    )
    def test_bad_tables_name_the_line(self, tmp_path, text, message):
        """Each defect is one line that says what and where."""
        with pytest.raises(ManifestError, match=message) as caught:
            read_manifest(write(tmp_path, text))

        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == ExitCode.USAGE

    @pytest.mark.parametrize("column", ["image", "mask"])
    @pytest.mark.parametrize(
        "cell", ["../../etc/passwd", "/etc/passwd", "sub/../../x.png", "..", "link/x.png", "link.png"]
    )
    def test_escapes_are_refused(self, tmp_path, column, cell):
        """A path that leaves the folder is unsafe input, also through links."""
        root = tmp_path / "set"
        root.mkdir()
        (root / "link").symlink_to("..")
        (root / "link.png").symlink_to("../secret.png")
        rows = {"image": "a.png", "mask": ""} | {column: cell}

        with pytest.raises(UnsafeInputError, match="line 2") as caught:
            read_manifest(write(root, f"image,mask\n{rows['image']},{rows['mask']}\n"))
        assert caught.value.exit_code == ExitCode.UNSAFE

    def test_inner_paths_are_allowed(self, tmp_path):
        """A linked root, links that stay inside, dots that stay inside and missing files are fine."""
        root = tmp_path / "set"
        save(root / "sub" / "a.png")
        (root / "b.png").symlink_to("sub/a.png")
        (root / "gone.png").symlink_to("nothing.png")
        (tmp_path / "alias").symlink_to("set")
        write(root, "image\nsub/../sub/a.png\nb.png\nmissing.png\ngone.png\n..dots.png\n")

        assert len(read_manifest(tmp_path / "alias" / "manifest.csv")) == 5

    def test_absolute_paths_inside_are_refused_too(self, tmp_path):
        """An absolute path is no escape when it points inside, but it would not travel."""
        with pytest.raises(ManifestError, match="absolute"):
            read_manifest(write(tmp_path, f"image\n{tmp_path.resolve()}/a.png\n"))

    @pytest.mark.parametrize(
        ("name", "message"), [("m.txt", "unknown suffix"), ("none.csv", "not found"), ("d.csv", "not found")]
    )
    def test_what_is_no_manifest_is_refused(self, tmp_path, name, message):
        """Another suffix, a missing file and a folder are named as such."""
        (tmp_path / "d.csv").mkdir()

        with pytest.raises(ManifestError, match=message):
            read_manifest(tmp_path / name)

    def test_sidecar_declares_masks(self, tmp_path):
        """The [masks] table beside the manifest says what ids mean; an argument says it louder."""
        path = write(tmp_path, "image,mask\na.png,m.png\n")
        save(tmp_path / "m.png", np.array([[0, 255]], np.uint8))
        deduced = read_manifest(path).masks
        write(tmp_path, "[masks]\nignore = [3]\nclasses = {tumour = 0, stroma = [1, 4]}\n", "manifest.toml")
        declared = read_manifest(path).masks
        given = MaskSpec.instances("nucleus")

        assert deduced == MaskSpec((("foreground", (255,)),))
        assert declared == MaskSpec((("tumour", (0,)), ("stroma", (1, 4))), ignore=(3,))
        assert read_manifest(path, given).masks == given

    def test_other_toml_beside_is_no_declaration(self, tmp_path):
        """A run file of the same stem without [masks] is passed over; without masks so is [masks]."""
        path = write(tmp_path, "image\na.png\n")
        write(tmp_path, "[model]\nname = 3\n[masks]\ninstances = true\n", "manifest.toml")

        assert read_manifest(path).masks is None

    def test_digest_is_of_the_content(self, tmp_path):
        """The digest changes with any cell or mask meaning, and not with the file's form or place."""
        first = Manifest(tmp_path, pd.DataFrame({"image": ["a", "b"], "label": ["x", ""]}))
        others = [
            first.take([1, 0]),
            Manifest(tmp_path, first.frame.assign(label=["", "x"])),
            Manifest(tmp_path, first.frame, MaskSpec.instances()),
            Manifest(tmp_path, pd.DataFrame({"image": ["a"], "label": ["x"]})),
            Manifest(tmp_path, first.frame.rename(columns={"label": "split", "split": "label"})),
        ]

        assert len({first.digest, *(other.digest for other in others)}) == 6
        assert Manifest(Path("elsewhere"), first.frame).digest == first.digest

    def test_file_digest_is_of_the_bytes(self, tmp_path):
        """An image file is identified by its bytes; a missing one is an image error."""
        write(tmp_path, b"abc", "a.png")
        manifest = Manifest(tmp_path, pd.DataFrame({"image": ["a.png", "b.png", "."]}))

        assert manifest.file_digest(0).startswith("ba7816bf8f01cfea414140de5dae2223")
        for index in (1, 2):
            with pytest.raises(ImageError):
                manifest.file_digest(index)

    def test_frames_made_by_hand_are_normalised(self):
        """Numbers and gaps in a frame become text; the frame given stays as it was."""
        frame = pd.DataFrame({"image": ["a", "b"], "label": [3, None], "group": [1.5, np.nan]}, index=[7, 9])
        manifest = Manifest(Path(), frame)

        assert manifest.frame["label"].tolist() == ["3.0", ""]
        assert manifest.frame["group"].tolist() == ["1.5", ""]
        assert manifest.frame.index.tolist() == [0, 1]
        assert list(frame.columns) == ["image", "label", "group"]
        with pytest.raises(ManifestError, match="no column 'image'"):
            Manifest(Path(), pd.DataFrame({"path": ["a"]}))


class TestParquet:
    def test_missing_library_is_named(self, tmp_path, monkeypatch):
        """Without pyarrow the error says what to install."""

        def absent(name):
            raise ImportError(name)

        monkeypatch.setattr(table, "import_module", absent)
        manifest = Manifest(tmp_path, pd.DataFrame({"image": ["a.png"]}))

        with pytest.raises(ManifestError, match=r"wsss-probe\[parquet\]"):
            read_manifest(write(tmp_path, b"PAR1", "m.parquet"))
        with pytest.raises(ManifestError, match=r"wsss-probe\[parquet\]"):
            write_manifest(manifest, tmp_path / "n.parquet")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.parquet"]

    def test_round_trip(self, tmp_path):
        """A Parquet manifest has the same digest as the CSV one."""
        pytest.importorskip("pyarrow")
        manifest = Manifest(
            tmp_path, pd.DataFrame({"image": ["a.png", "b.png"], "label": ["007", ""], "age": ["3", ""]})
        )
        write_manifest(manifest, tmp_path / "m.parquet")

        assert read_manifest(tmp_path / "m.parquet").digest == manifest.digest

    def test_cells_are_text_and_rows_are_counted(self, tmp_path):
        """Typed Parquet cells become text, and defects name the row."""
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(
            pyarrow.table({"image": ["a.png", "b.png"], "label": [7, None]}), tmp_path / "m.parquet"
        )
        parquet.write_table(pyarrow.table({"image": ["a.png", None]}), tmp_path / "n.parquet")

        assert read_manifest(tmp_path / "m.parquet").frame["label"].tolist() == ["7", ""]
        with pytest.raises(ManifestError, match="row 2"):
            read_manifest(tmp_path / "n.parquet")
        with pytest.raises(ManifestError, match="not Parquet"):
            read_manifest(write(tmp_path, b"nothing", "o.parquet"))


# -- discovery --------------------------------------------------------------------------------


class TestDiscover:
    def test_class_folders_are_labels(self, tmp_path):
        """A folder around images is their label; loose images have none; the order is natural."""
        for name in [
            "b/10.png",
            "b/9.PNG",
            "a/deep/1.jpg",
            "2.tif",
            "b/notes.txt",
            ".hidden/3.png",
            "b/.4.png",
        ]:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        frame = discover(tmp_path).frame

        assert frame["image"].tolist() == ["2.tif", "a/deep/1.jpg", "b/9.PNG", "b/10.png"]
        assert frame["label"].tolist() == ["", "a", "b", "b"]

    def test_split_folders_are_splits(self, tmp_path):
        """Folders train and test at the top are splits, the next folder is the label."""
        for name in ["train/a/1.png", "train/b/1.png", "test/a/2.png"]:
            save(tmp_path / name)
        frame = discover(tmp_path).frame

        assert frame[["split", "label"]].to_numpy().tolist() == [
            ["test", "a"],
            ["train", "a"],
            ["train", "b"],
        ]

    def test_masks_pair_by_stem(self, tmp_path):
        """images/ and masks/ pair by path without suffix; an image without mask has none."""
        for name in ["images/a.jpg", "images/b.png", "images/x/c.png", "masks/x/c.png", "masks/lone.png"]:
            save(tmp_path / name)
        save(tmp_path / "masks/a.png", np.array([[0, 255]], np.uint8))
        manifest = discover(tmp_path)

        assert names_in(manifest) == ["images/a.jpg", "images/b.png", "images/x/c.png"]
        assert manifest.frame["mask"].tolist() == ["masks/a.png", "", "masks/x/c.png"]
        assert manifest.frame["label"].tolist() == ["", "", "x"]
        assert manifest.masks.names == ("foreground",)

    def test_two_masks_are_ambiguous(self, tmp_path):
        """Two masks of one stem are an error that names both."""
        for name in ["images/a.png", "masks/a.png", "masks/a.tif"]:
            save(tmp_path / name)

        with pytest.raises(ManifestError, match=r"masks/a\.png and masks/a\.tif"):
            discover(tmp_path)

    def test_names_are_read_by_pattern(self, tmp_path):
        """Named groups of a pattern become columns, unknown ones covariates."""
        for name in ["01_TUMOR_p7.png", "02_STROMA_p7.png", "odd.png"]:
            save(tmp_path / name)
        frame = discover(tmp_path, r"^\d+_(?P<label>[A-Z]+)_(?P<group>p\d+)(?P<stain>x)?").frame

        assert frame["label"].tolist() == ["TUMOR", "STROMA", ""]
        assert frame["group"].tolist() == ["p7", "p7", ""]
        assert frame["stain"].tolist() == ["", "", ""]

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(", "regular expression"),
            ("a+", "no usable column"),
            ("(?P<image>.)", "image"),
            ("(?P<label>Z)", "a match in a.png"),
        ],
    )
    def test_bad_patterns_are_refused(self, tmp_path, pattern, message):
        """A pattern that cannot work is a usage error."""
        save(tmp_path / "a.png")

        with pytest.raises(UsageError, match=message):
            discover(tmp_path, pattern)

    def test_own_manifest_is_used(self, tmp_path):
        """A manifest.csv inside the folder decides."""
        save(tmp_path / "a.png")
        save(tmp_path / "b.png")
        write(tmp_path, "image,label\nb.png,x\n")

        assert names_in(discover(tmp_path)) == ["b.png"]
        assert names_in(discover(tmp_path, r"(?P<label>\w)\.")) == ["a.png", "b.png"]

    def test_nothing_to_do_is_said(self, tmp_path):
        """A folder without images ends with its own exit code; a file or nothing is a usage error."""
        write(tmp_path, "x", "notes.txt")

        with pytest.raises(NothingToDoError) as caught:
            discover(tmp_path)
        assert caught.value.exit_code == ExitCode.NOTHING_TO_DO
        for name in ("notes.txt", "none"):
            with pytest.raises(UsageError, match="not a folder"):
                discover(tmp_path / name)

    def test_escaping_links_are_refused(self, tmp_path):
        """A linked image outside the folder is unsafe; linked folders are not followed."""
        save(tmp_path / "secret.png")
        save(tmp_path / "set" / "a.png")
        (tmp_path / "set" / "up").symlink_to("..")
        assert names_in(discover(tmp_path / "set")) == ["a.png"]
        (tmp_path / "set" / "b.png").symlink_to("../secret.png")

        with pytest.raises(UnsafeInputError, match=r"b\.png"):
            discover(tmp_path / "set")

    def test_strange_names_stay_distinct(self, tmp_path):
        """Bytes, newlines, quotes, twins and long names are samples of their own and survive a file."""
        twins = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
        odd = [
            "a\nb.png",
            "q\"u'o,te.png",
            " space.png",
            "A.png",
            "a.png",
            "CON.png",
            "=1+1.png",
            "x" * 250 + ".png",
        ]
        raw = [os.fsdecode(b"\xff\xfe.png"), "back\\slash.png", "cr\rlf\r\n.png", "<img src=x>.png"]
        for name in [*twins, *odd, *raw]:
            (tmp_path / name).write_bytes(b"")
        manifest = discover(tmp_path)
        write_manifest(manifest, tmp_path / "manifest.csv")

        assert sorted(names_in(manifest)) == sorted([*twins, *odd, *raw])
        assert names_in(read_manifest(tmp_path / "manifest.csv")) == names_in(manifest)
        assert len(set(names_in(split_by_group(manifest, SHARES)))) == len(manifest)
        assert all(manifest.path(index).exists() for index in range(len(manifest)))
        for name in names_in(manifest):
            assert display(name).encode("utf-8")
            assert display(name).isprintable()


class TestDocs:
    def test_the_page_runs(self):
        """Every example of docs/manifest.md gives what it shows."""
        page = Path(__file__).parents[1] / "docs" / "manifest.md"
        failed, tried = doctest.testfile(str(page), module_relative=False)

        assert (failed, tried > 10) == (0, True)


class TestNames:
    def test_bytes_and_bidi_are_shown_as_escapes(self):
        """What would break a line, a file or the reading direction is escaped."""
        assert display("a\udcffb\n\u202e\x00é") == "a\\xffb\\n\\u202e\\x00é"
        assert len(display("x" * 1000)) <= 121

    def test_numbers_sort_by_value(self):
        """Digits compare as numbers, letters without case, and no two names are equal."""
        names = ["a10", "A9", "a9", "a2b", "a2", "10", "9", ""]

        assert sorted(names, key=natural_order) == ["", "9", "10", "a2", "a2b", "A9", "a9", "a10"]

    def test_nearest_ignores_case(self):
        """The nearest option is found whatever its case, and none among none."""
        assert nearest("TUMOR", ["normal", "Tumour"]) == "Tumour"
        assert nearest("x", []) == ""


# -- writing ----------------------------------------------------------------------------------


class TestWrite:
    @settings(max_examples=40, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(
                st.text(
                    st.characters(exclude_characters="/\\\0:", exclude_categories=["Cs"]),
                    min_size=1,
                    max_size=8,
                ),
                st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda row: row[0],
        )
    )
    def test_round_trip(self, tmp_path_factory, rows):
        """Whatever text stands in a table is read back as it was."""
        folder = tmp_path_factory.mktemp("round")
        rows = [(f"i{name}", cell) for name, cell in rows]
        frame = pd.DataFrame(
            {"image": [r[0] for r in rows], "label": [r[1] for r in rows], "note": [r[1] for r in rows]}
        )
        manifest = Manifest(folder, frame)
        write_manifest(manifest, folder / "manifest.csv")
        again = read_manifest(folder / "manifest.csv")

        assert again.frame.to_numpy().tolist() == manifest.frame.to_numpy().tolist()
        assert again.digest == manifest.digest

    def test_masks_are_declared_beside(self, tmp_path):
        """What masks mean is written beside the manifest and read back."""
        spec = MaskSpec((("tumour", (0, 5)), ("näme", (1,))), ignore=(3,))
        manifest = Manifest(tmp_path, pd.DataFrame({"image": ["a.png"], "mask": ["m.png"]}), spec)
        write_manifest(manifest, tmp_path / "manifest.csv")

        assert read_manifest(tmp_path / "manifest.csv").masks == spec
        assert read_manifest(tmp_path / "manifest.csv").digest == manifest.digest

    def test_other_toml_is_not_overwritten(self, tmp_path):
        """A run file of the same stem stays, and nothing is written."""
        path = write(tmp_path, "[model]\nname = 1\n", "run.toml")
        manifest = Manifest(
            tmp_path, pd.DataFrame({"image": ["a.png"], "mask": ["m.png"]}), MaskSpec.instances()
        )

        with pytest.raises(ManifestError, match="holds other things; found: model"):
            write_manifest(manifest, tmp_path / "run.csv")
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.toml"]
        assert path.read_text() == "[model]\nname = 1\n"

    def test_paths_follow_the_file(self, tmp_path):
        """Written to a folder around the images, paths are told from there; elsewhere it is refused."""
        root = tmp_path / "data" / "set"
        save(root / "a.png")
        manifest = Manifest(root, pd.DataFrame({"image": ["a.png"], "mask": [""]}))
        write_manifest(manifest, tmp_path / "data" / "all.csv")
        again = read_manifest(tmp_path / "data" / "all.csv")

        assert names_in(again) == ["set/a.png"]
        assert again.path(0).samefile(root / "a.png")
        assert again.frame["mask"].tolist() == [""]
        (tmp_path / "other").mkdir()
        with pytest.raises(ManifestError, match="outside the folder"):
            write_manifest(manifest, tmp_path / "other" / "m.csv")

    def test_failure_leaves_the_old_file(self, tmp_path, monkeypatch):
        """When writing fails the old manifest stays and no half file is left."""
        path = write(tmp_path, "image\nold.png\n")

        def full_disk(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_manifest(Manifest(tmp_path, pd.DataFrame({"image": ["new.png"]})), path)

        assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.csv"]
        assert path.read_text() == "image\nold.png\n"

    @pytest.mark.parametrize("name", ["m.txt", "none/m.csv"])
    def test_bad_targets_are_refused(self, tmp_path, name):
        """An unknown suffix or a missing folder is one clear line."""
        (tmp_path / "set").mkdir()
        manifest = Manifest(tmp_path / "none" / "set", pd.DataFrame({"image": ["a.png"]}))

        with pytest.raises((UsageError, ManifestError), match=r"suffix|does not exist|outside"):
            write_manifest(manifest, tmp_path / name)


# -- labels and groups ------------------------------------------------------------------------


def labelled(*labels: str, **columns: object) -> Manifest:
    """Make a manifest with these labels."""
    return Manifest(
        Path(), pd.DataFrame({"image": [f"{i}.png" for i in range(len(labels))], "label": labels, **columns})
    )


class TestLabels:
    def test_sets_by_name(self):
        """Each row has the classes it names; several stand side by side, none is none."""
        sets = labelled("b", "a;b", "", "other", "b;b;").label_sets(["a", "b"])

        assert sets.dtype == bool
        assert sets.astype(int).tolist() == [[0, 1], [1, 1], [0, 0], [0, 0], [0, 1]]

    def test_digits_are_indices_unless_classes_are_numbers(self):
        """Whole numbers count classes, but not where classes have numbers for names."""
        assert labelled("1", "0").label_sets(["a", "b"]).astype(int).tolist() == [[0, 1], [1, 0]]
        assert labelled("1", "2").label_sets(["1", "2"]).astype(int).tolist() == [[1, 0], [0, 1]]
        assert labelled("1", "0").label_sets(["1", "2"]).astype(int).tolist() == [[1, 0], [0, 0]]
        assert labelled("007", "0").label_sets(list("abcdefgh")).sum() == 1

    def test_unknown_labels_are_known_to_be_unknown(self):
        """Labels beyond the classes are listed; if none fits it is an error with the nearest class."""
        manifest = labelled("tumor", "normal")

        assert manifest.unknown_labels(["normal", "tumour"]) == ("tumor",)
        with pytest.raises(ManifestError, match=r"found: normal, tumor; wanted: Tumour, benign.*normal is"):
            manifest.label_sets(["Tumour", "benign"])

    def test_without_labels_all_is_false(self):
        """A manifest without labels has an empty set per row."""
        assert labelled("", "").label_sets(["a"]).tolist() == [[False], [False]]

    def test_groups_fall_back_to_images(self):
        """Rows without a group stand for themselves; no group at all is None; tiles stay together."""
        tiles = {"x": [0, 8], "y": 0, "width": 8, "height": 8}

        assert labelled("", "").groups is None
        assert labelled("", "", group=["p", ""]).groups.tolist() == ["p", "1.png"]
        assert Manifest(Path(), pd.DataFrame({"image": ["a", "a"], **tiles})).groups.tolist() == ["a", "a"]


# -- tiles ------------------------------------------------------------------------------------


def starts_by_the_book(length, side, step):
    """Every multiple of the step that leaves room, then the last place that does."""
    places = []
    place = 0
    while place + side <= length:
        places.append(place)
        place += step
    if places and places[-1] + side < length:
        places.append(length - side)
    return places


class TestTile:
    @settings(max_examples=30, deadline=None)
    @given(
        shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        side=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        step=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    )
    def test_places_equal_the_loop(self, tmp_path_factory, shape, side, step):
        """Tiles stand where the loop puts them, fully inside, the last flush with the border."""
        folder = tmp_path_factory.mktemp("tiles")
        save(folder / "a.png", np.zeros(shape, np.uint8))
        expected = [
            (x, y, side[1], side[0])
            for y in starts_by_the_book(shape[0], side[0], step[0])
            for x in starts_by_the_book(shape[1], side[1], step[1])
        ]

        if expected:
            manifest = tile(discover(folder), side, step).manifest
            assert [manifest.box(index) for index in range(len(manifest))] == expected
            assert set(manifest.groups) == {"a.png"}
        else:
            with pytest.raises(NothingToDoError, match="smaller than a tile"):
                tile(discover(folder), side, step)

    def test_rows_carry_over(self, tmp_path):
        """Labels, splits and covariates go to each tile; the group is the image's or its path."""
        save(tmp_path / "a.png", np.zeros((10, 20), np.uint8))
        save(tmp_path / "b.png", np.zeros((10, 10), np.uint8))
        (tmp_path / "bad.png").write_bytes(b"")
        save(tmp_path / "small.png")
        write(
            tmp_path,
            "image,label,group,split,age\na.png,x,p1,train,5\nb.png,y,,test,\nbad.png,,,,\nsmall.png,,,,\n",
        )
        tiling = tile(read_manifest(tmp_path / "manifest.csv"), 10, 10)
        frame = tiling.manifest.frame

        assert frame["image"].tolist() == ["a.png", "a.png", "b.png"]
        assert frame[["label", "group", "split", "age"]].to_numpy().tolist() == [
            ["x", "p1", "train", "5"],
            ["x", "p1", "train", "5"],
            ["y", "b.png", "test", ""],
        ]
        assert tiling.dropped == {"image not readable": 1, "image smaller than a tile": 1}

    def test_tiles_survive_a_file(self, tmp_path):
        """Written and read back, tiles are the same rows with integer columns."""
        save(tmp_path / "a.png", np.zeros((10, 20), np.uint8))
        manifest = tile(discover(tmp_path), 8, 6).manifest
        write_manifest(manifest, tmp_path / "tiles.csv")
        again = read_manifest(tmp_path / "tiles.csv")

        assert again.digest == manifest.digest
        assert again.box(3) == manifest.box(3)
        assert {str(again.frame[name].dtype) for name in ("x", "y", "width", "height")} == {"int64"}
        with pytest.raises(ManifestError, match="tiles already"):
            tile(again, 4, 4)

    def test_labels_follow_the_mask(self, tmp_path):
        """A tile is labelled by how much of its scored pixels a class covers; others are dropped."""
        ids = np.zeros((10, 50), np.uint8)
        ids[:3, 0:10] = 1  # 30 %: exactly enough
        ids[:1, 10:20] = 1  # 10 %: neither
        ids[0, 20:22] = 1  # 2 %: exactly little enough
        ids[:, 30:40] = 9  # ignored altogether
        ids[:8, 40:50] = 9  # 20 pixels are scored, 6 of them covered
        ids[8, 40:46] = 1
        save(tmp_path / "images/a.png", ids)
        save(tmp_path / "masks/a.png", ids)
        manifest = Manifest(
            tmp_path, discover(tmp_path).frame, MaskSpec((("foreground", (1,)),), ignore=(9,))
        )
        tiling = tile(manifest, 10, 10, label_from_mask=GLANDS)

        assert tiling.manifest.frame[["x", "label"]].to_numpy().tolist() == [
            [0, "gland"],
            [20, "none"],
            [40, "gland"],
        ]
        assert tiling.dropped == {"no rule met": 2}

    def test_several_rules_may_be_met(self, tmp_path):
        """A tile has every label whose rule it meets, once, in the order of the rules."""
        save(tmp_path / "images/a.png", np.zeros((10, 10), np.uint8))
        save(tmp_path / "masks/a.png", np.repeat([1, 2], 50).reshape(10, 10).astype(np.uint8))
        rules = [
            MaskRule("b", "mask 2", at_least=0.3),
            MaskRule("a", "mask 1", at_least=0.5),
            MaskRule("b", "mask 1", 0.1),
        ]

        assert tile(discover(tmp_path), 10, 10, label_from_mask=rules).manifest.label_names == ("a", "b")
        assert tile(discover(tmp_path), 10, 10, label_from_mask=rules).manifest.frame["label"][0] == "b;a"

    @pytest.mark.parametrize("mask", [np.zeros((9, 10), np.uint8), np.full((10, 10), 7, np.uint8), None])
    def test_bad_masks_are_counted(self, tmp_path, mask):
        """An image whose mask cannot be used gives no labelled tile, and is counted."""
        for name in "ab":
            save(tmp_path / f"images/{name}.png", np.zeros((10, 10), np.uint8))
            save(tmp_path / f"masks/{name}.png", np.zeros((10, 10), np.uint8))
        spec = MaskSpec((("foreground", (1,)),))
        manifest = Manifest(tmp_path, discover(tmp_path).frame, spec)
        (tmp_path / "masks/b.png").unlink() if mask is None else save(tmp_path / "masks/b.png", mask)
        tiling = tile(manifest, 10, 10, label_from_mask=GLANDS)

        assert len(tiling.manifest) == 1
        assert tiling.dropped == {"mask not usable": 1}

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("gland", "foreground"), UsageError),
            (("gland", "foreground", 0.5, 0.4), UsageError),
            (("gland", "foreground", 1.5), UsageError),
            (("gland", "foreground", float("nan")), UsageError),
            (("", "foreground", 0.5), UsageError),
            (("a;b", "foreground", 0.5), UsageError),
        ],
    )
    def test_impossible_rules_are_refused(self, arguments, error):
        """A rule needs a label and bounds that a tile can meet."""
        with pytest.raises(error):
            MaskRule(*arguments)

    def test_wrong_requests_are_refused(self, tmp_path):
        """Sizes below one, unknown mask classes and missing masks are named."""
        save(tmp_path / "images/a.png")
        manifest = discover(tmp_path)
        masked = Manifest(tmp_path, manifest.frame, MaskSpec.instances("gland"))

        for size, stride in [(0, 1), (1, 0), ((2, -1), 1)]:
            with pytest.raises(UsageError, match="of tiles"):
                tile(manifest, size, stride)
        with pytest.raises(ManifestError, match="need masks"):
            tile(manifest, 2, 2, label_from_mask=GLANDS)
        with pytest.raises(UsageError, match="did you mean gland"):
            tile(masked, 2, 2, label_from_mask=[MaskRule("a", "glands", 0.5)])


# -- splits -----------------------------------------------------------------------------------


SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


class TestSplit:
    def cohort(self, seed=0, patients=60):
        """Make patients with one to five images each, a quarter of them with a rare label."""
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 6, patients)
        groups = np.repeat([f"p{patient}" for patient in range(patients)], sizes)
        labels = np.repeat(["common" if patient % 4 else "rare" for patient in range(patients)], sizes)
        order = random.permutation(len(groups))
        return labelled(*labels[order], group=groups[order])

    def test_groups_stay_together(self):
        """No group is in two splits, and every row has one."""
        frame = split_by_group(self.cohort(), SHARES, seed=3).frame

        assert (frame.groupby("group")["split"].nunique() == 1).all()
        assert set(frame["split"]) == set(SHARES)

    @pytest.mark.parametrize("seed", range(5))
    def test_shares_hold_for_each_label(self, seed):
        """Each label has its shares to within a group's size."""
        frame = split_by_group(self.cohort(seed), SHARES, seed).frame

        for _, rows in frame.groupby("label"):
            for split, share in SHARES.items():
                assert abs((rows["split"] == split).sum() - share * len(rows)) <= 6

    def test_seed_decides(self):
        """The same seed gives the same split, another seed another; the order of rows does not matter."""
        manifest = self.cohort()
        first = split_by_group(manifest, SHARES, 1).frame
        turned = split_by_group(manifest.take(range(len(manifest))[::-1]), SHARES, 1).frame

        assert split_by_group(manifest, SHARES, 1).digest == split_by_group(manifest, SHARES, 1).digest
        assert (first["split"] != split_by_group(manifest, SHARES, 2).frame["split"]).any()
        assert dict(zip(first["image"], first["split"], strict=True)) == dict(
            zip(turned["image"], turned["split"], strict=True)
        )

    def test_images_without_groups_are_their_own(self):
        """Without groups images are split one by one, without labels too."""
        frame = split_by_group(labelled(*[""] * 10), {"a": 0.5, "b": 0.5}).frame

        assert frame["split"].value_counts().to_dict() == {"a": 5, "b": 5}

    @pytest.mark.parametrize(
        "shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"": 1.0}, {"a": float("nan")}]
    )
    def test_impossible_shares_are_refused(self, shares):
        """Shares are positive, add up to one and have names."""
        with pytest.raises(UsageError, match="shares"):
            split_by_group(labelled("a", "b"), shares)

    def test_too_few_groups_are_refused(self):
        """Two groups cannot fill three splits."""
        with pytest.raises(ManifestError, match="2 groups"):
            split_by_group(labelled("a", "a", "b", group=["p", "p", "q"]), SHARES)


# -- real data --------------------------------------------------------------------------------


def real(name: str) -> Path:
    """Find a real data set, or skip, or fail where it is required."""
    folder = SHARED / name
    if not folder.is_dir():
        if os.environ.get("WSSS_PROBE_REQUIRE_REAL") == "1":
            pytest.fail(f"{folder} is required")
        pytest.skip(f"{name} is not here")
    return folder


@pytest.mark.real
class TestReal:
    @pytest.mark.parametrize(
        ("name", "images", "labels", "masks"),
        [
            ("glas", 145, ("benign", "malignant"), MaskSpec((("foreground", (255,)),))),
            ("nuclei", 107, ("pink_HE", "purple_tissue", "white_background_smear"), MaskSpec.instances()),
            (
                "luad",
                68,
                ("normal", "stroma", "tumour"),
                MaskSpec(tuple((f"mask {i}", (i,)) for i in (1, 2, 3))),
            ),
            ("pcam", 1998, ("normal", "tumour"), None),
        ],
    )
    def test_manifests_are_read(self, name, images, labels, masks):
        """Real manifests give their images, labels and what their masks look like."""
        manifest = read_manifest(real(name) / "manifest.csv")

        assert len(manifest) == images
        assert manifest.label_names == labels
        assert manifest.masks == masks
        assert manifest.label_sets(labels).any(axis=1).all()

    def test_several_labels_stand_side_by_side(self):
        """LUAD rows hold several tissues."""
        manifest = read_manifest(real("luad") / "manifest.csv")
        sets = manifest.label_sets(["tumour", "stroma", "normal"])

        assert {1, 2} <= set(sets.sum(axis=1).tolist())

    def test_gland_tiles(self):
        """GlaS tiles of 96 pixels have two labels, lie inside and keep their image as group."""
        manifest = read_manifest(real("glas") / "manifest.csv")
        tiling = tile(manifest, 96, 48, label_from_mask=GLANDS)
        frame = tiling.manifest.frame

        assert tiling.manifest.label_names == ("gland", "none")
        assert tiling.dropped["no rule met"] > 0
        assert (frame["group"] == frame["image"]).all()
        assert frame["label"].value_counts()["gland"] > frame["label"].value_counts()["none"] > 100

    def test_kather_names_hold_the_labels(self):
        """A pattern reads tissue and slide from Kather's file names."""
        folder = real("kather") / "images"
        manifest = discover(folder, r"^\d+_(?P<label>[A-Z]+)_.*_(?P<group>CRC-Prim-HE-\d+)")

        assert len(manifest.label_names) == 8
        assert (manifest.frame["group"] != "").any()
