"""The reference says what the code does."""

from __future__ import annotations

from pathlib import Path

from vagrant_kiwi import errors, settings, tasks

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def settings_table() -> str:
    """Return the table of settings as the reference must have it."""
    lines = ["| setting | default | what it does | allowed |", "|---|---|---|---|"]
    for key in settings.KEYS.values():
        if key.default is None or key.default == ():
            default = ""
        elif isinstance(key.default, bool):
            default = str(key.default).lower()
        else:
            default = str(key.default)
        cells = (f"`{key.name}`", default, key.about, key.allowed)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def test_every_setting_is_in_the_reference() -> None:
    assert settings_table() in REFERENCE.read_text()


def test_every_task_and_option_is_in_the_reference() -> None:
    text = REFERENCE.read_text()
    for name, entry in tasks.namespace.tasks.items():
        assert f"`invoke {name}`" in text
        for argument in entry.get_arguments():
            assert f"`--{argument.name.replace('_', '-')}`" in text, argument.name


def test_every_exit_code_is_in_the_reference() -> None:
    text = REFERENCE.read_text()
    for entry in vars(errors).values():
        if isinstance(entry, type) and issubclass(entry, errors.VagrantKiwiError):
            assert f"| {entry.code} |" in text, entry
