"""The console command ``vagrant-kiwi``: the same tasks as with ``invoke``, in any folder."""

from __future__ import annotations

from pathlib import Path

from invoke.collection import Collection
from invoke.config import Config
from invoke.exceptions import Exit
from invoke.program import Program

from vagrant_kiwi import __version__
from vagrant_kiwi.invocation import FILE_NAMES, SettingsConfig

NAME = "vagrant-kiwi"


def main(argv: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: the command line with the program's name; without it ``sys.argv``.

    Raises:
        SystemExit: the command failed; Invoke's Program ends the process so.
    """
    # The tasks import most of the package: not for who imports only this module.
    from vagrant_kiwi.tasks import namespace

    make_program(namespace).run(argv)


def make_program(namespace: Collection, *, config_class: type[Config] = SettingsConfig) -> Program:
    """Return the program with the given tasks.

    Args:
        namespace: its subcommands.
        config_class: the class of Invoke's configuration.
    """
    return ProjectProgram(
        version=__version__,
        namespace=namespace,
        name=NAME,
        binary=NAME,
        binary_names=[NAME],
        config_class=config_class,
    )


class ProjectProgram(Program):
    """A Program with its own tasks that loads the project's settings all the same.

    Invoke 3.0.3 loads a project's file together with its tasks file, so a Program with a namespace
    of its own loads none ("TODO: load project conf" in ``Program.parse_collection``).
    """

    def update_config(self, merge: bool = True) -> None:
        """Load the project's file, then what Invoke loads here: flags and the file of ``-f``.

        Invoke calls this after ``--help`` and ``--list``, which therefore work with a broken file.
        """
        try:
            folder = project_folder(Path.cwd())
        except FileNotFoundError as error:
            raise Exit("The current folder does not exist any more. Change to another one.") from (
                error
            )
        self.config.set_project_location(str(folder))
        self.config.load_project(merge=False)
        super().update_config(merge=merge)


def project_folder(start: Path) -> Path:
    """Return the nearest folder, from ``start`` upward, with a settings file of Invoke's.

    Args:
        start: absolute folder; the answer where there is none.
    """
    for folder in (start, *start.parents):
        if any(_is_file(folder / name) for name in FILE_NAMES):
            return folder
    return start


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        # A folder above that we may not look into is nobody's project of ours.
        return False
