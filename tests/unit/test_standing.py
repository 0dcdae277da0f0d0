"""Guests that were left for builds: are they what a fresh one would be?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit import plans
from vagrant_kiwi import standing
from vagrant_kiwi.errors import SettingsError
from vagrant_kiwi.guests.record import GuestRecord, Status
from vagrant_kiwi.guests.vagrantfile import ForeignBox
from vagrant_kiwi.isolation import HostFacts
from vagrant_kiwi.plan import BuildPlan

BOX = ForeignBox("debian-bookworm", "vagrant-kiwi/debian-bookworm:1", "1")


def made_of(plan: BuildPlan, box: ForeignBox = BOX) -> Mapping[str, str]:
    return standing.made_of(plan, box, None)


def leave(plan: BuildPlan, run_id: str, status: Status) -> GuestRecord:
    """Put a guest on record beside the plan's own run."""
    folder = plan.paths.run.parent / run_id
    folder.mkdir(parents=True)
    record = GuestRecord(
        run_id=run_id, provider="docker", image="i", folder=folder / "guest", status=status
    )
    record.save(folder)
    return record


def test_another_run_wants_the_same_guest(tmp_path: Path) -> None:
    busy = HostFacts(frozenset({(7, 0), (259, 1)}), frozenset({0}), selinux=False)
    first = plans.make(tmp_path, run_id="r1")
    second = plans.make(tmp_path, run_id="r2", facts=busy)
    assert made_of(first) == made_of(second)


def test_each_input_is_told_from_the_others(tmp_path: Path) -> None:
    script, data = tmp_path / "p.sh", tmp_path / "data"
    script.write_text("true\n")
    data.mkdir()
    (data / "file").write_text("one")

    def wanted(**given: object) -> Mapping[str, str]:
        synced = [{"source": data, "target": "/srv", **given}]
        return made_of(plans.make(tmp_path, sync=synced, provision=[script]))

    before = wanted()
    assert wanted() == before
    changed = {name for name, value in wanted(exclude=["*.o"]).items() if value != before[name]}
    assert changed == {"sync"}
    (data / "file").write_text("another")
    assert wanted()["sync"] != before["sync"]
    before = wanted()
    script.write_text("false\n")
    assert {name for name, value in wanted().items() if value != before[name]} == {"provision"}
    plan = plans.make(tmp_path, docker={"create_args": ["--memory=1g"]})
    assert made_of(plan)["guest"] != before["guest"]
    other_box = ForeignBox("debian-bookworm", "vagrant-kiwi/debian-bookworm:2", "1")
    assert made_of(plans.make(tmp_path), other_box)["guest"] != before["guest"]


def test_a_guest_made_from_something_else_is_3_with_the_way_out(tmp_path: Path) -> None:
    record = leave(plans.make(tmp_path), "old", "up")
    wanted = {"guest": "1", "sync": "2", "provision": "3"}
    standing.check(record.model_copy(update={"made_of": wanted}), wanted)
    other = {**wanted, "sync": "9"}
    with pytest.raises(SettingsError) as caught:
        standing.check(record.model_copy(update={"made_of": other}), wanted)
    assert caught.value.code == 3
    assert "synced data" in caught.value.details
    assert "scripts" not in caught.value.details
    assert "invoke down" in caught.value.resolution


def test_only_what_up_left_is_found(tmp_path: Path) -> None:
    plan = plans.make(tmp_path)
    assert standing.find(plan) is None
    leave(plan, "a-kept", "kept")
    leave(plan, "b-removed", "removed")
    assert standing.find(plan) is None
    left = leave(plan, "c-up", "up")
    leave(plan, "d-live", "live")
    found = standing.find(plan)
    assert found is not None
    assert found[1] == left
    assert [record.run_id for _, record in standing.runs(plan)] == [
        "a-kept",
        "b-removed",
        "c-up",
        "d-live",
    ]
