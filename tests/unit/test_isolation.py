"""Least privilege by image type."""

from __future__ import annotations

from pathlib import Path

from vagrant_kiwi.isolation import HostFacts, Isolation, isolate, read_facts

NONE = HostFacts(frozenset(), frozenset(), selinux=False)


def _isolate(image_type: str, facts: HostFacts = NONE) -> Isolation:
    return isolate(image_type, requested="auto", facts=facts, run_id="r1", extra=(), sshd=True)


def test_folder_types_get_no_device_and_never_privileged() -> None:
    for image_type in ("tbz", "docker", "oci"):
        chosen = _isolate(image_type)
        assert chosen.kind == "folder"
        assert "--privileged" not in chosen.create_args
        assert not any("device" in arg or "/dev" in arg for arg in chosen.create_args)
        assert {"--cap-add=SYS_ADMIN", "--cap-add=MKNOD"} <= set(chosen.create_args)


def test_every_guest_is_labelled_and_published_on_loopback_only() -> None:
    for chosen in (_isolate("tbz"), _isolate("oem")):
        assert "--label=vagrant-kiwi.run=r1" in chosen.create_args
        published = [arg for arg in chosen.create_args if arg.startswith("--publish")]
        assert published == ["--publish=127.0.0.1::22"]


def test_disk_types_get_only_numbers_that_nothing_uses() -> None:
    facts = HostFacts(
        block_devices=frozenset({(259, 0), (259, 1), (259, 7), (8, 0), (7, 3)}),
        busy_loops=frozenset({3}),
        selinux=False,
    )
    rules = [
        arg.removeprefix("--device-cgroup-rule=")
        for arg in _isolate("oem", facts).create_args
        if arg.startswith("--device-cgroup-rule=")
    ]
    assert "c 10:237 rmw" in rules
    for taken in ("b 259:0 rmw", "b 259:1 rmw", "b 259:7 rmw", "b 7:3 rmw", "b 8:0 rmw"):
        assert taken not in rules
    for free in ("b 259:2 rmw", "b 259:8 rmw", "b 7:0 rmw", "b 7:4 rmw"):
        assert free in rules
    assert not any("*" in rule for rule in rules)


def test_unknown_types_are_taken_for_disks() -> None:
    assert _isolate("something-new").kind == "disk"


def test_privileged_only_when_asked_for() -> None:
    chosen = isolate("tbz", requested="privileged", facts=NONE, run_id="r1", extra=(), sshd=True)
    assert chosen.kind == "privileged"
    assert "--privileged" in chosen.create_args
    assert not any("/dev:" in arg for arg in chosen.create_args)


def test_selinux_label_is_switched_off_where_selinux_is_on() -> None:
    on = HostFacts(frozenset(), frozenset(), selinux=True)
    assert "--security-opt=label=disable" in _isolate("tbz", on).create_args
    assert "--security-opt=label=disable" not in _isolate("tbz").create_args


def test_extra_arguments_come_last() -> None:
    chosen = isolate(
        "tbz", requested="auto", facts=NONE, run_id="r", extra=("--memory=2g",), sshd=True
    )
    assert chosen.create_args[-1] == "--memory=2g"


def test_facts_are_read_from_sysfs(tmp_path: Path) -> None:
    for number in ("7:0", "259:4", "254:0"):
        (tmp_path / "dev/block" / number).mkdir(parents=True)
    (tmp_path / "block/loop0").mkdir(parents=True)
    (tmp_path / "block/loop5/loop").mkdir(parents=True)
    (tmp_path / "block/loop5/loop/backing_file").write_text("/x\n")
    (tmp_path / "fs/selinux").mkdir(parents=True)
    (tmp_path / "fs/selinux/enforce").write_text("1")
    facts = read_facts(tmp_path)
    assert facts == HostFacts(frozenset({(7, 0), (259, 4), (254, 0)}), frozenset({5}), selinux=True)
