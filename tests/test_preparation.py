"""From options to a plan: what is asked is understood, and what cannot be is said before any work."""

import dataclasses
import os
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_probe.config import resolve
from wsss_probe.contracts import Needs
from wsss_probe.errors import ModelError, NothingToDoError, UsageError
from wsss_probe.images import ManifestSource, Sample, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.matching import configured
from wsss_probe.preparation import find_subject, load_network, prepare, read_images
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.testing.models import multi_logit, planted_gap, single_logit

HEADER = "image,label,mask,group,split"


def write_folder(folder, rows):
    """Write 16x16 images, and masks of ids 0 to 2, that the rows name, and the manifest."""
    folder.mkdir(exist_ok=True)
    for row in rows:
        image, _, mask, *_ = row.split(",")
        generator = np.random.default_rng(sum(image.encode()))
        for name, shape in ((image, (16, 16, 3)), (mask, (16, 16))):
            if name:
                pixels = generator.integers(0, 256 if len(shape) == 3 else 3, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name)
    (folder / "manifest.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder / "manifest.csv"


@pytest.fixture
def table(tmp_path):
    """A manifest of six images labelled class 0 and class 1 in turn; the first three have masks."""
    return write_folder(
        tmp_path / "six", [f"{n}.png,class {n % 2},{f'm{n}.png' if n < 3 else ''},," for n in range(6)]
    )


@pytest.fixture
def prepared(hosting):
    """Prepare an audit of given probes; images are in memory unless options name files."""

    def make(*probes, net=None, explain=(), images=None, host=None, **options):
        net = multi_logit(2) if net is None else net
        files = "manifest" in options or "images" in options
        source = None if files else (TensorSource(torch.rand(3, 3, 16, 16)) if images is None else images)
        options = {key: str(value) if key == "manifest" else value for key, value in options.items()}
        common = {"layers": ("features",), "controls": "none", "preprocess": "unit" if files else ""}
        resolved = resolve({**common, **options})
        host = host or hosting(probes, explain)
        return prepare(resolved, host, find_subject(resolved, host, net, source))

    return make


def names(prepared):
    """Names of the probes by stage."""
    return [[offered.item.name for offered in stage] for stage in prepared.stages]


def statements(prepared):
    """Statements of the findings by name."""
    return {finding.name: finding.statement for _, finding in prepared.findings}


def reading(*tables):
    """Needs of the summaries of other probes."""
    return Needs(tables=frozenset(tables))


class TestStages:
    def test_each_comes_after_those_it_reads(self, prepared, looking):
        """Stages follow the dependencies, whatever the order in which plugins offer probes."""
        made = prepared(
            looking("d", needs=reading("c", "a")),
            looking("b", needs=reading("a")),
            looking("c", needs=reading("b")),
            looking("a"),
            looking("e"),
        )

        assert names(made) == [["a", "e"], ["b"], ["c"], ["d"]]

    def test_without_probes_there_is_one_stage(self, prepared):
        """The host's own pass needs no probe."""
        assert names(prepared()) == [[]]

    @pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "a"}])
    def test_circles_are_refused(self, prepared, looking, links):
        """Probes that wait for one another are named, those beside them are not."""
        circle = [looking(name, needs=reading(other)) for name, other in links.items()]
        with pytest.raises(UsageError, match="probes wait for one another") as caught:
            prepared(looking("free"), *circle)

        assert caught.value.found == ", ".join(links)


class TestSkipped:
    def test_without_masks(self, prepared, looking):
        """A probe that needs masks is skipped with a finding, and so is one that reads it."""
        masked = looking("masked", needs=Needs(masks=True))
        made = prepared(masked, looking("reader", needs=reading("masked")), looking("free"))

        assert names(made) == [["free"]]
        assert statements(made) == {
            "skipped-masked": "masked was skipped: it needs masks and the manifest has none.",
            "skipped-reader": "reader was skipped: it reads masked, which does not run here.",
        }
        assert [probe["name"] for probe in made.plan.probes] == ["free"]

    def test_without_labels(self, prepared, looking):
        """A probe that needs labels is skipped when no image has one."""
        made = prepared(looking("labelled", needs=Needs(labels=True)))

        assert statements(made) == {
            "skipped-labelled": "labelled was skipped: it needs labels and the manifest has none."
        }

    def test_a_table_that_nobody_offers(self, prepared, looking):
        """A probe that reads an unknown table is skipped with its name."""
        made = prepared(looking("reader", needs=reading("nobody")))

        assert "it reads nobody" in statements(made)["skipped-reader"]

    def test_with_masks_and_labels_nothing_is_skipped(self, prepared, looking, table):
        """Where the manifest has both, probes run."""
        made = prepared(looking("both", needs=Needs(masks=True, labels=True)), manifest=table)

        assert names(made) == [["both"]]
        assert made.findings == ()

    @pytest.mark.parametrize("masks", [{"instances": True}, {"classes": {"x": 1}}, {"ignore": [3]}])
    def test_declared_masks_without_files_are_no_masks(self, prepared, looking, tmp_path, masks):
        """Mask options for a manifest without masks make no mask classes."""
        manifest = write_folder(tmp_path / "two", ["a.png,class 0,,,", "b.png,class 1,,,"])
        made = prepared(looking("masked", needs=Needs(masks=True)), manifest=manifest, masks=masks)

        assert made.survey.mask_classes == ()
        assert "skipped-masked" in statements(made)


class TestFaultyPlugins:
    """A plugin that answers nonsense is listed as failed; the others run."""

    @pytest.mark.parametrize(
        ("made", "stage", "message"),
        [
            ({"needs": lambda survey: None}, "needs", "needs returned the wrong type; found: NoneType"),
            ({"needs": lambda survey: 1 / 0}, "needs", "ZeroDivisionError"),
            ({"needs": Needs(layers=frozenset({"no"}))}, "needs", "not audited; found: no; wanted: features"),
            ({"needs": Needs(gradients=frozenset({("no", 0)}))}, "needs", "not audited; found: no"),
            ({"needs": Needs(gradients=frozenset({("features", 2)}))}, "needs", "none; found: 2"),
            ({"needs": Needs(gradients=frozenset({("features", "x")}))}, "needs", "none; found: 'x'"),
            ({"split": lambda survey: [None]}, "split", "a hook returned the wrong type"),
            ({"split": lambda survey: 7}, "split", "not iterable"),
        ],
    )
    def test_probes(self, prepared, looking, hosting, made, stage, message):
        """Failures of split and needs name the stage, the thing found and the thing wanted."""
        host = hosting([looking("odd", **made), looking("fine")])
        assert names(prepared(host=host)) == [["fine"]]

        (failure,) = host.failures
        assert (failure.item, failure.stage) == ("odd", stage)
        assert message in failure.message

    def test_good_gradients_are_no_failure(self, prepared, looking, hosting):
        """Named targets and every class index may be asked for."""
        pairs = {("features", target) for target in ("predicted", "label", 0, 1)}
        host = hosting([looking("fine", needs=Needs(gradients=frozenset(pairs)))])

        assert names(prepared(host=host)) == [["fine"]]
        assert host.failures == ()

    def test_two_copies_of_one_name(self, prepared, looking, hosting):
        """Copies of a probe that share a name are refused: they would share a table."""
        twins = looking("twins", split=lambda survey: [looking("twins@a"), looking("twins@a")])
        thief = looking("thief", split=lambda survey: [looking("fine")])
        host = hosting([looking("fine"), twins, thief])

        assert names(prepared(host=host)) == [["fine"]]
        assert [failure.item for failure in host.failures] == ["twins", "thief"]

    def test_an_explainer_that_cannot_say_what_it_accepts(self, prepared, times_gradient, hosting):
        """An explainer whose accepts raises is left out, and the others stay."""

        class Odd(times_gradient):
            name = "odd"

            def accepts(self, layer, head):
                raise KeyError(layer.name)

        host = hosting(explainers=[Odd(), times_gradient()])

        assert prepared(host=host).plan.relevance == (("timesgradient", "features"),)
        assert [(failure.item, failure.stage) for failure in host.failures] == [("odd", "accepts")]


class TestExplainers:
    def test_refused_layers_have_reasons(self, prepared, times_gradient):
        """What does not suit is listed with its reason, and enters neither plan nor pass."""

        class Picky(times_gradient):
            name = "picky"

            def accepts(self, layer, head):
                return "too deep" if layer.name == "features" else ""

        class Never(times_gradient):
            name = "never"

            def accepts(self, layer, head):
                return "never"

        made = prepared(explain=[Picky(), Never()], layers=("features.0", "features"))

        assert made.plan.relevance == (("picky", "features.0"),)
        assert set(made.refused) == {
            ("picky", "features", "too deep"),
            ("never", "features.0", "never"),
            ("never", "features", "never"),
        }
        assert [offered.item.name for offered in made.explainers] == ["picky"]
        assert [method["name"] for method in made.plan.probes] == ["picky"]

    def test_auto_maps_the_deepest_layer_only(self, prepared, times_gradient):
        """With an automatic choice relevance is mapped where it is cheapest: at the last layer."""
        made = prepared(explain=[times_gradient()], layers=("auto",))

        assert made.plan.relevance == (("timesgradient", made.plan.layers[-1]),)


class TestOptionsOfMethods:
    @pytest.fixture
    def tunable(self, looking):
        """A probe with one option, of which a copy per layer is made."""

        @dataclass(frozen=True)
        class Tunable(looking):
            name: str = "tunable"
            share: float = 0.5
            options: dict = field(init=False)

            def __post_init__(self):
                if not 0 <= self.share <= 1:
                    raise ValueError("share outside 0..1")
                object.__setattr__(self, "options", {"share": self.share})

            def needs(self, survey):
                return Needs()

            def split(self, survey):
                return [dataclasses.replace(self, name=f"{self.name}@{layer}") for layer in survey.layers]

        return Tunable()

    def test_reach_the_probe_and_the_plan(self, prepared, tunable):
        """A run file's options change the probe, its copies and the plan."""
        plain, tuned = prepared(tunable), prepared(tunable, probes={"tunable": {"share": 0.25}})

        assert [o.item.share for stage in tuned.stages for o in stage] == [0.25]
        assert tuned.plan.probes[0]["options"] == {"share": 0.25}
        assert plain.plan.probes[0]["options"] == {"share": 0.5}

    def test_of_an_explainer_enter_the_plan(self, prepared, times_gradient):
        """An explainer's options change the plan's id, so that no run of others is reused."""

        @dataclass(frozen=True)
        class Sharp(times_gradient):
            power: int = 1

        plain = prepared(explain=[Sharp()], images=TensorSource(torch.zeros(2, 3, 16, 16)))
        tuned = prepared(
            explain=[Sharp()],
            images=TensorSource(torch.zeros(2, 3, 16, 16)),
            explainers={"timesgradient": {"power": 2}},
        )

        assert tuned.explainers[0].item.power == 2
        assert plain.plan.id != tuned.plan.id

    def test_an_unknown_option_names_the_nearest(self, prepared, tunable, hosting):
        """A misspelt option ends the audit at once; it is the user's, not the plugin's fault."""
        host = hosting([tunable])
        with pytest.raises(
            UsageError, match="'tunable' has no such option; found: shere; remedy: did you mean 'share'"
        ):
            prepared(host=host, probes={"tunable": {"shere": 1}})
        assert host.failures == ()

    @pytest.mark.parametrize("kind", ["probes", "explainers"])
    def test_an_unknown_method_names_the_nearest(self, prepared, tunable, times_gradient, kind):
        """Options for a method that nobody offers name the nearest one."""
        near = {"probes": "tunable", "explainers": "timesgradient"}[kind]
        with pytest.raises(
            UsageError, match=f"no plugin offers; found: {near[1:]}; remedy: did you mean '{near}'"
        ):
            prepared(tunable, explain=[times_gradient()], **{kind: {near[1:]: {"share": 1}}})

    def test_a_method_of_no_plugin(self, prepared):
        """Without any plugin there is nothing to name."""
        with pytest.raises(UsageError, match=r"options for a probe that no plugin offers; found: x$"):
            prepared(probes={"x": {}})

    def test_a_value_that_the_method_refuses(self, prepared, tunable):
        """What the method says about a bad value reaches the user."""
        with pytest.raises(UsageError, match=r"refuses its options; found: share outside 0\.\.1"):
            prepared(tunable, probes={"tunable": {"share": 2}})

    def test_a_method_without_options(self, looking):
        """A probe that is no dataclass has no options."""
        with pytest.raises(UsageError, match="it has no options"):
            configured(looking("plain"), {"plain": {"x": 1}})


class TestTargets:
    def targets(self, prepared, *asked):
        """Targets of a network with classes red, green, label-free."""
        made = prepared(net=multi_logit(3), classes=("red", "green", "blue"), targets=asked)
        return made.survey.targets

    @pytest.mark.parametrize(
        ("asked", "meant"),
        [
            ((), ("predicted",)),
            (("label",), ("label",)),
            (("green", "predicted"), (1, "predicted")),
            (("all",), (0, 1, 2)),
            (("blue", "all"), (2, 0, 1)),
            (("red", "red", "label"), (0, "label")),
        ],
    )
    def test_words_and_class_names(self, prepared, asked, meant):
        """Targets keep their order and come once; ``all`` is every class."""
        assert self.targets(prepared, *asked) == meant

    def test_an_unknown_one_names_the_nearest(self, prepared):
        """A misspelt class names what it may have been."""
        with pytest.raises(ModelError, match=r"found: gren; .*remedy: 'green'\?"):
            self.targets(prepared, "gren")


class TestStored:
    def test_layers_to_store_must_be_audited(self, prepared):
        """Maps of a layer outside the audit are refused with the flag that would do it."""
        with pytest.raises(UsageError, match=r"found: features\.0; remedy: --layers features,features\.0"):
            prepared(store_activations=("features.0",))

    def test_layers_to_store_enter_the_plan(self, prepared):
        """What is stored is planned."""
        made = prepared(layers=("features", "features.0"), store_activations=("features.0",))

        assert made.plan.stored == ("features.0",)
        assert prepared().plan.stored == ()


class TestMaskOptions:
    def masks(self, table, **masks):
        """What masks mean with these options."""
        return read_images(resolve({"manifest": str(table), "masks": masks})).masks

    def test_as_the_files_say(self, table):
        """Without options the meaning is deduced from the masks."""
        assert self.masks(table).names == ("mask 1", "mask 2")

    def test_classes(self, table):
        """Named classes replace what was deduced; one id or several."""
        spec = self.masks(table, classes={"tumour": 2, "tissue": [0, 1]})

        assert spec.classes == (("tumour", (2,)), ("tissue", (0, 1)))
        assert spec.positions(np.array([[0, 1, 2]])).tolist() == [[1, 1, 0]]

    def test_ignore(self, table):
        """Ignored ids are taken out of the deduced classes."""
        spec = self.masks(table, ignore=[2])

        assert spec.positions(np.array([[0, 1, 2]])).tolist() == [[-2, 0, -1]]

    def test_classes_and_ignore(self, table):
        """Both options work together."""
        spec = self.masks(table, classes={"tumour": [1]}, ignore=[2])

        assert spec.positions(np.array([[0, 1, 2]])).tolist() == [[-2, 0, -1]]

    def test_instances(self, table):
        """With instances every id above 0 is foreground."""
        spec = self.masks(table, instances=True, ignore=[2])

        assert spec.positions(np.array([[0, 1, 2, 999]])).tolist() == [[-2, 0, -1, 0]]


class TestImages:
    @pytest.mark.parametrize(
        ("number", "kept"),
        [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (4, [0, 2, 3, 5]), (6, range(6)), (9, range(6))],
    )
    def test_max_images_are_evenly_spread(self, table, number, kept):
        """The images kept are spread over the table from its first to its last row."""
        manifest = read_images(resolve({"manifest": str(table), "max_images": number}))

        assert manifest.frame["image"].tolist() == [f"{n}.png" for n in kept]

    def test_a_folder_a_manifest_or_both(self, table, tmp_path):
        """A folder is discovered, a table read, and with both the folder is the root."""
        folder = read_images(resolve({"images": str(table.parent)}))
        named = read_images(resolve({"images": str(table)}))
        both = read_images(resolve({"manifest": str(table), "images": str(tmp_path)}))

        assert folder.digest == named.digest == both.digest
        assert folder.root == table.parent.resolve()
        assert both.root == tmp_path

    def test_neither(self):
        """Without images the flags are named."""
        with pytest.raises(UsageError, match="no images to audit; remedy: give --images"):
            read_images(resolve({}))

    def test_none_is_readable(self, prepared):
        """When no image can be read the reason of one is given."""
        with pytest.raises(NothingToDoError, match="no image could be read; found: image holds NaN"):
            prepared(images=TensorSource(torch.full((3, 3, 16, 16), torch.nan)))

    @pytest.mark.parametrize(
        "options", [{"max_images": 2}, {"masks": {"ignore": [1]}}, {"masks": {"instances": True}}]
    )
    def test_options_about_files_need_files(self, prepared, options):
        """Options that would be ignored for images in memory are refused."""
        with pytest.raises(UsageError, match=f"handed over; found: {next(iter(options))}"):
            prepared(**options)

    def test_a_manifest_source_keeps_its_labels_and_preprocessing(self, prepared, table):
        """A source over a manifest is audited with its labels, masks and preprocessing."""
        source = ManifestSource(read_manifest(table), Preprocessing.parse("size=8 mean=.5,.5,.5 std=1,1,1"))
        made = prepared(images=source)

        assert made.labels.argmax(axis=1).tolist() == [0, 1] * 3
        assert made.survey.mask_classes == ("mask 1", "mask 2")
        assert made.survey.input_shape == (3, 8, 8)
        assert made.plan.preprocessing == source.preprocessing.to_dict()


class TestNetwork:
    def test_no_network(self, hosting):
        """Without a network the flag is named."""
        with pytest.raises(UsageError, match="no network to audit; remedy: give --model"):
            load_network(resolve({}), hosting())

    def test_files_need_preprocessing(self, hosting):
        """A live network says nothing about preprocessing, so files cannot be audited without it."""
        with pytest.raises(ModelError, match=r"nothing says how images are prepared .*--preprocess"):
            load_network(resolve({}), hosting(), multi_logit(2), files=True)

    @pytest.mark.parametrize("classes", [("a",), ("a", "b", "c")])
    def test_class_names_must_fit(self, prepared, classes):
        """As many class names as outputs, or the counts of both are said."""
        with pytest.raises(ModelError, match=f"{len(classes)} names, 2 outputs"):
            prepared(classes=classes)

    def test_unnamed_classes_are_numbered(self, prepared):
        """Without names classes are numbered from 0."""
        assert prepared(net=multi_logit(3)).survey.classes == ("class 0", "class 1", "class 2")


class TestLabels:
    def labelled(self, prepared, folder, labels, net=None, **options):
        """Prepare images with these labels."""
        rows = [f"{n}.png,{label},,," for n, label in enumerate(labels)]
        return prepared(net=net or planted_gap(), manifest=write_folder(folder / "labelled", rows), **options)

    def test_unknown_labels_are_named(self, prepared, tmp_path):
        """Labels that are no class are named, and images that have no other count as unlabelled."""
        made = self.labelled(prepared, tmp_path, ["a", "b;c", "c", ""], classes=("a", "b"))
        (finding,) = [finding for _, finding in made.findings]

        assert made.labelled.tolist() == [True, True, False, False]
        assert (finding.name, finding.verdict, finding.effect) == ("unknown-labels", "notice", 1.0)
        assert "no class of the network: c." in finding.statement

    def test_only_unknown_labels_are_a_warning(self, prepared, tmp_path):
        """When no label is a class nothing is labelled, and a warning says how to name the classes."""
        made = self.labelled(prepared, tmp_path, ["x", "y"], classes=("a", "b"))
        (finding,) = [finding for _, finding in made.findings]

        assert not made.labels.any()
        assert not made.labelled.any()
        assert finding.verdict == "warning"
        assert "--classes" in finding.statement

    @pytest.mark.parametrize("labels", [["tumour", "normal", "", "tumour"], ["1", "0", "", "1"]])
    def test_a_single_logit_knows_present_and_absent(self, prepared, tmp_path, labels):
        """For one logit its class or 1 means present, 0 and any other label absent, none unknown."""
        made = self.labelled(prepared, tmp_path, labels, net=single_logit(), classes=("tumour",))

        assert made.labels.tolist() == [[True], [False], [False], [True]]
        assert made.labelled.tolist() == [True, True, False, True]
        assert made.findings == ()

    def test_a_single_logit_with_foreign_labels(self, prepared, tmp_path):
        """If no label names the only class, nothing is known, and a warning says so."""
        made = self.labelled(prepared, tmp_path, ["x", "y"], net=single_logit(), classes=("tumour",))

        assert not made.labelled.any()
        assert [finding.verdict for _, finding in made.findings] == ["warning"]


class TestDigest:
    def digest(self, prepared, **options):
        """Hash of the data in the plan."""
        return prepared(**options).plan.data["files"]

    @pytest.mark.parametrize("name", ["1.png", "m1.png"])
    def test_a_changed_file_changes_it(self, prepared, table, name):
        """An image or a mask with other bytes of the same number is other data; a touched one is not."""
        path = table.parent / name
        before = self.digest(prepared, manifest=table)
        os.utime(path, (1, 1))
        assert self.digest(prepared, manifest=table) == before
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

        assert self.digest(prepared, manifest=table) != before

    def test_a_missing_file_changes_it(self, prepared, table):
        """A file that is gone is other data, and no error here."""
        before = self.digest(prepared, manifest=table)
        (table.parent / "3.png").unlink()

        assert self.digest(prepared, manifest=table) != before

    def test_any_tensor_changes_it(self, prepared):
        """In memory every image counts, not only the first ones, and so does every mask."""
        images = torch.rand(20, 3, 16, 16)
        masks = torch.zeros((20, 16, 16), dtype=torch.int64)
        last = images.clone()
        last[-1, 0, 0, 0] += 0.5
        other = masks.clone()
        other[-1, 0, 0] = -1
        sources = [
            TensorSource(images), TensorSource(images.clone()), TensorSource(last),
            TensorSource(images, masks), TensorSource(images, other),
        ]  # fmt: skip
        found = [self.digest(prepared, images=source) for source in sources]

        assert found[0] == found[1]
        assert len(set(found)) == 4

    def test_a_source_of_ones_own(self, prepared):
        """A stranger's source is known by its first images and its size."""

        class Source:
            def __init__(self, images):
                self.images = images

            def __len__(self):
                return len(self.images)

            def read(self, index):
                return Sample(index, tensor=self.images[index])

        images = torch.rand(4, 3, 16, 16)
        plans = [prepared(images=Source(i)).plan for i in (images, images.clone(), images + 1, images[:3])]

        assert plans[0].id == plans[1].id
        assert len({plan.id for plan in plans}) == 3

    def test_tiles_read_their_file_once(self, prepared, tmp_path, monkeypatch):
        """Tiles of one image are one file."""
        from wsss_probe import contents

        Image.fromarray(np.zeros((32, 16, 3), np.uint8)).save(tmp_path / "a.png")
        (tmp_path / "tiles.csv").write_text("image,x,y,width,height\na.png,0,0,16,16\na.png,0,16,16,16\n")
        seen = []
        whole = contents._file_digest
        monkeypatch.setattr(contents, "_file_digest", lambda path: [seen.append(path.name), whole(path)][1])
        prepared(manifest=tmp_path / "tiles.csv")

        assert seen == ["a.png"]


class TestExecution:
    @pytest.mark.parametrize(("batch", "shard"), [(1, 64), (10, 60), (16, 64), (48, 48), (100, 100)])
    def test_shards_are_whole_batches(self, prepared, batch, shard):
        """A shard of about 64 images is a whole number of batches."""
        execution = prepared(batch_size=batch).plan.execution

        assert (execution.batch_size, execution.shard) == (batch, shard)
        assert execution.threads == torch.get_num_threads()


class TestSplits:
    """Auditing the rows of some splits only."""

    def write(self, tmp_path):
        """Write six images in three splits."""
        splits = ("train", "val", "test")
        return write_folder(tmp_path / "s", [f"{n}.png,class {n % 2},,,{splits[n % 3]}" for n in range(6)])

    @pytest.mark.parametrize(
        ("splits", "images"),
        [
            ("test", ["2.png", "5.png"]),
            ("val,test", ["1.png", "2.png", "4.png", "5.png"]),
            ("", list("012345")),
        ],
    )
    def test_rows_of_other_splits_are_left_out(self, tmp_path, splits, images):
        """Only rows of the splits that are named remain, in their order; without a name all do."""
        manifest = read_images(resolve({"manifest": str(self.write(tmp_path)), "splits": splits}))
        assert [name.removesuffix(".png") for name in manifest.frame["image"]] == [
            name.removesuffix(".png") for name in images
        ]

    def test_a_split_that_is_not_there(self, tmp_path):
        """The splits that there are, are named."""
        options = resolve({"manifest": str(self.write(tmp_path)), "splits": "tset"})
        with pytest.raises(UsageError, match="test, train, val"):
            read_images(options)
