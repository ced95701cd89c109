"""Equal plans have equal hashes, and a folder with another plan is refused."""

import dataclasses
import json

import pytest

from wsss_probe.errors import CorruptRunError, PlanError
from wsss_probe.plan import Execution, Plan, library_versions, read_plan, same_plan


def make(**changes):
    """A small plan."""
    values = {
        "model": {"name": "net", "tensors": "ab"},
        "data": {"images": 3},
        "preprocessing": {},
        "layers": ("a",),
        "layers_reason": "named",
        "targets": ("predicted", 1),
        "relevance": (("m", "a"),),
        "probes": ({"name": "p", "options": {"x": 1}},),
        "controls": ("shuffled-0",),
        "stored": ("a",),
        "execution": Execution(),
        "libraries": library_versions(),
    }
    return Plan(**{**values, **changes})


def test_equal_plans_have_equal_ids():
    """The id depends on the contents only, not on the order of keys."""
    assert make().id == make(model={"tensors": "ab", "name": "net"}).id


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Plan)])
def test_every_field_enters_the_id(field):
    """Changing any field changes the id."""
    other = {
        "layers_reason": "other",
        "execution": Execution(batch_size=1),
        "model": {"name": "x"},
        "data": {"images": 4},
        "preprocessing": {"size": [1, 1]},
        "libraries": {},
        "measures": ({"name": "texture"},),
        "networks": ({"name": "other"},),
    }.get(field, ())

    assert make(**{field: other}).id != make().id


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Execution)])
def test_every_part_of_the_execution_enters_the_id(field):
    """Batch size, threads, device, seed: whatever can change a bit changes the id."""
    default = getattr(Execution(), field)
    other = default + 1 if isinstance(default, int) else f"{default}x"

    assert make(execution=dataclasses.replace(Execution(), **{field: other})).id != make().id


def test_round_trip(tmp_path):
    """A written plan is recognised as the same."""
    make().write(tmp_path)

    assert same_plan(make(), tmp_path)
    assert read_plan(tmp_path)["layers"] == ["a"]


def test_no_plan_is_no_match(tmp_path):
    """An empty or absent folder holds no plan."""
    assert not same_plan(make(), tmp_path)
    assert not same_plan(make(), tmp_path / "absent")


def test_other_plan_names_what_differs(tmp_path):
    """The refusal names the fields that differ and what to do."""
    make().write(tmp_path)

    with pytest.raises(PlanError, match=r"found: other controls, data; remedy: choose another --out"):
        same_plan(make(controls=(), data={"images": 9}), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_damaged_plan_is_corrupt(tmp_path, text):
    """A plan.json that is none is a corrupt run, not an empty folder."""
    (tmp_path / "plan.json").write_text(text)

    with pytest.raises(CorruptRunError, match="is not a plan"):
        read_plan(tmp_path)


def test_control_plan_keeps_rows_only():
    """A control repeats the survey without maps, and its id differs."""
    plan = make().for_control("shuffled-0")

    assert (plan.relevance, plan.stored, plan.controls) == ((), (), ())
    assert plan.id != make().id != make().for_control("shuffled-1").id


def test_plan_is_json():
    """The dictionary of a plan survives JSON unchanged."""
    assert json.loads(json.dumps(make().to_dict())) == make().to_dict()
