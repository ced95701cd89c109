"""Options are flags over file over defaults; what cannot be meant is one clear line."""

import pytest

from wsss_probe.config import AuditOptions, read_run_file, resolve
from wsss_probe.errors import UsageError


@pytest.fixture
def run_file(tmp_path):
    """Write a run file and return its path."""

    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_need_nothing():
    """Without flags and file every option has its default."""
    assert resolve({}) == AuditOptions()


def test_flags_win_over_file_and_file_over_defaults(run_file):
    """A flag beats the file, the file beats the default, the rest stays."""
    options = resolve({"batch_size": 8}, run_file('batch_size = 4\nmax-images = 100\ncontrols = "none"'))

    assert (options.batch_size, options.max_images, options.controls) == (8, 100, "none")
    assert options.seed == 0


def test_absent_flags_do_not_overwrite(run_file):
    """A flag that was not given (None) leaves the file's value."""
    assert resolve({"model": None}, run_file('model = "x"')).model == "x"


@pytest.mark.parametrize("text", ["layer3, layer4", ("layer3", "layer4")])
def test_lists_may_be_written_with_commas(text):
    """A list option takes a list or one text with commas."""
    assert resolve({"layers": text}).layers == ("layer3", "layer4")


def test_tables_reach_probes_and_masks(run_file):
    """Tables of options are kept under their names."""
    text = '[probes.x]\nresolution = "mask"\n[masks]\nignore = [3]\nclasses = {a = 1}'
    options = resolve({}, run_file(text))

    assert options.probes == {"x": {"resolution": "mask"}}
    assert (options.masks.ignore, options.masks.classes) == ([3], {"a": 1})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("batchsize = 3", "unknown key.*found: batchsize; remedy: did you mean 'batch_size'"),
        ("[masks]\nignored = [1]", "found: masks.ignored; remedy: did you mean 'ignore'"),
        ("batch_size = 0", "bad value for 'batch_size'.*found: 0"),
        ('batch_size = "many"', "bad value for 'batch_size'"),
        ("a = ", "is not TOML"),
        ("trust_code = true", "asks to trust code.*--trust-code"),
        ("trust-code = true", "asks to trust code"),
    ],
)
def test_bad_file_is_one_line(run_file, text, match):
    """Whatever is wrong with a run file is told in one line with a remedy."""
    with pytest.raises(UsageError, match=match) as caught:
        resolve({}, run_file(text))
    assert "\n" not in str(caught.value).replace(str(caught.value.found), "")


def test_missing_and_binary_files(tmp_path):
    """A run file that is absent or no text is named."""
    with pytest.raises(UsageError, match="cannot read run file"):
        read_run_file(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        read_run_file(tmp_path / "b.toml")


def test_options_are_frozen():
    """Resolved options cannot be changed."""
    with pytest.raises(ValueError, match="frozen"):
        resolve({}).seed = 3


def test_multilabel_is_a_pair_of_switches():
    """Both words reach the option; without them the network's card decides."""
    assert resolve({}).multilabel is None
    assert resolve({"multilabel": False}).multilabel is False
    assert resolve({"multilabel": True}).multilabel is True
