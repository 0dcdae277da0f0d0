"""The real box for virtual machines is looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from vagrant_kiwi import box_look_machine, box_verify
from vagrant_kiwi.deadline import Deadline
from vagrant_kiwi.process import Runner


def test_our_machine_box_is_good(
    machine_box: dict[str, Any], runner: Runner, tmp_path: Path
) -> None:
    cache = user_cache_path("vagrant-kiwi") / "libvirt" / machine_box["name"]
    log: list[str] = []
    look = box_look_machine.look_machine(
        cache / machine_box["version"] / machine_box["file"],
        runner,
        scratch=tmp_path,
        deadline=Deadline.after(300, what="Looking into the box"),
        update=log.append,
    )
    assert box_verify.problems(look, stated_kiwi="11.1.6", allowed_keys=()) == ()
    assert look.kiwi == "11.1.6"
    assert [path for path, _ in look.authorized_keys] == ["/home/vagrant/.ssh/authorized_keys"]
    assert log == ["unpacking the box", "unpacking its disk", "looking into partition 1"]
    assert list(tmp_path.iterdir()) == []
