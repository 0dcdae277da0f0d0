"""What KIWI 11.1.6 and its package managers say: the patterns that ``kiwi_log`` looks for.

Read in KIWI's source, and seen in real logs of apt 2.6 and 3.0, zypper 1.14, dnf 4.14 and pacman
6.0 with repositories that were down, unsigned, wrongly signed or on a full disk. All are anchored
at the beginning of a line, because names and descriptions of packages hold such words too.
"""

from __future__ import annotations

import re

# The first message of each step of tasks/system_build.py and tasks/result_bundle.py.
PHASES = tuple(
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"Loading XML description|Preparing new root system", "preparing"),
        (r"Installing bootstrap packages$", "bootstrap packages"),
        (r"Installing system (?:packages )?\(chroot\)", "image packages"),
        (r"(?:Force deleting|Uninstall(?:ing)?) system packages", "removing packages"),
        (r"Copying user defined files|Setting up image repository", "configuring"),
        (r"Setting up user |Calling config\.sh script$", "configuring"),
        (r"Creating system image$", "creating image"),
        (r"Creating generic dracut initrd", "creating initrd"),
        (r"Syncing system to image$", "filling image"),
        (r"Creating \S+ Disk Format$|Creating XZ compressed", "packing image"),
        (r"Export \w+ packages metadata$", "listing packages"),
        (r"Bundle build results from ", "bundling"),
    )
)

# apt-get update says these on standard error, only for what went wrong in the end. Its "Err:" lines
# are tries, and a later one may have succeeded: a flat local repository has six of them.
_APT = (
    r"[WE]: (?:GPG error|OpenPGP signature verification failed): |"
    r"[WE]: An error occurred during the signature verification|"
    r"[WE]: Failed to fetch |[WE]: Some index files failed to download|"
    r"[WE]: The repository '.*' (?:is not signed|is no longer signed|does not have a Release file)|"
    r"E: Release file for .* (?:is expired|is not valid yet)|"
    r"[WE]: .*\b(?:NO_PUBKEY|EXPKEYSIG|REVKEYSIG|KEYEXPIRED|EXPSIG|BADSIG|ERRSIG) "
)
# zypper and dnf say these and go on. zypper's question is answered "yes" where the description
# switches the check off.
_WENT_ON = (
    r"Warning: Skipping repository '.*' because of the above error|"
    r"Signature verification failed for .* from repository '.*'(?!.*: y(?:es)?$)|"
    r"File '.*' not found on medium |Failed to retrieve new repository metadata|"
    r"Error: Failed to download metadata for repo |Ignoring repositories: |"
    r"(?:Error: )?GPG check FAILED$"
)
_FAILED = (
    r"Repository '.*' is invalid\.|Errors during downloading metadata for repository |"
    r"error: failed retrieving file '.*\.db(?:\.sig)?' from |error: database '.*' is not valid |"
    r"error: failed to synchronize all databases|error: .*: signature from .* is |"
    r"error: .*\binvalid or corrupted database \(PGP signature\)"
)
#: Repositories, in the output of apt-get update.
REPOSITORY_IN_UPDATE = re.compile(_APT)
#: The same in the output of a package manager that installs.
REPOSITORY_IN_TOPIC = re.compile(_WENT_ON)
#: The same in the error that KIWI ends with.
REPOSITORY_IN_ERROR = re.compile(f"{_APT}|{_WENT_ON}|{_FAILED}")
#: KIWI's own warning about a local repository (system/prepare.py); it goes on without it.
REPOSITORY_SKIPPED = re.compile(r"repository .* does not exist and will be skipped$")
#: Says nothing that the lines before it did not say better.
REPOSITORY_GENERIC = re.compile(r"[WE]: Some index files failed to download")

#: What KIWI puts before the words of the tool that failed (command.py, system/prepare.py).
BEFORE_TOOL = re.compile(r".*?(?:\bstderr: |, stdout: | failed: )")
#: Output of a package manager (command_process.py), a script, apt-get (package_manager/apt.py).
TOPIC = re.compile(r"(?:bootstrap|system|update): (.*)")
SCRIPT_BEGIN = re.compile(r"-{14}(?:out|err) start-{13}$")
SCRIPT_END = re.compile(r"-{14}(?:out|err) stop-{14}$")
APT_RECORD = re.compile(r"Apt (?:update|download): (.*)")
FAILED_RECORD = re.compile(r"EXEC: Failed with (.*)")

_NO_SPACE = (
    r"No space left on device|\[Errno (?:28|122)\]|\bDisk quota exceeded|"
    r"not enough free disk space|You don't have enough free space in |"
    r"needs \d+\s*[KMGT]?i?B? (?:more )?space on the |more space needed on the |"
    r"Partition .* too full"
)
DISK_FULL = re.compile(_NO_SPACE)
DISK_FULL_IN_TOPIC = re.compile(
    rf"\s*(?:dpkg|rpm|E|[Ee]rror|installing package)\b.*(?:{_NO_SPACE})"
)
#: KIWI mounts the file system of the image that it fills below these (mount_manager.py,
#: volume_manager/): full there means that the image is too small, not a disk of the guest.
IN_IMAGE = re.compile(r"/kiwi_(?:mount_manager|volumes)\.")

#: The error KIWI ends with (kiwi.py); what it logs as an error before is a failed clean-up.
KIWI_FAILED = re.compile(r"Kiwi[A-Za-z]+: |Unexpected error:")
ADVICE = "Further details to clarify the error might have been"
TRACEBACK = "Traceback (most recent call last):"
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::|$)")
#: A line of the box in which KIWI's command line parser (typer) complains.
USAGE = re.compile(r"[│|] (.*?) *[│|]$")

#: What to do, by the words of an error.
ADVICES = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"Unable to locate package|has no installation candidate|No provider of '|"
            r"nothing provides|No match for argument|Unable to find a match|target not found",
            "Is the package's name right, and does a repository of the description have it?",
        ),
        (
            r'Command "[^"]*" not found in the environment',
            "The build box lacks this program: add the package that has it to the box.",
        ),
        (r"KiwiScriptFailed", "Correct the script; all that it said is in the log."),
        (
            r"KiwiDescription|KiwiConfigFile|KiwiDataStructureError|KiwiSchemaImport",
            "Correct the description.",
        ),
        (
            r"KiwiProfileNotFound|KiwiTypeNotFound",
            "'invoke info --description=...' shows the description's profiles and types.",
        ),
        (
            r"partx: .*: error (?:adding|deleting) partition",
            "A stale partition of a loop device is in the way: remove it with 'partx --delete'.",
        ),
        (
            r"/boot/.*Read-only file system",
            "Is a disk of the guest full? The file system of an image turns read-only then.",
        ),
        (r"\bKilled\b|Cannot allocate memory|MemoryError", "Give the guest more memory."),
    )
)
