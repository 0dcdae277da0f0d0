"""QEMU's guest agent: questions to a guest that do not go over its network.

So the answer comes from the guest itself: nobody on the network can forge the host keys.
Protocol: QEMU's documentation, "QEMU Guest Agent Protocol Reference".
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping, Sequence

import libvirt
import libvirt_qemu

from vagrant_kiwi.errors import GuestError

#: Seconds for one answer; an agent that lives answers at once, but emulation is slow.
_ANSWER = 20


def run(
    domain: libvirt.virDomain, argv: Sequence[str], *, timeout: float, patience: float = 0.0
) -> str:
    """Run a short command as root in a guest.

    Args:
        domain: a running domain.
        argv: program and arguments.
        timeout: seconds for the command.
        patience: seconds before them in which the agent may still be starting.

    Returns:
        Its standard output.

    Raises:
        GuestError: the agent does not answer, or the command fails.
    """
    deadline = time.monotonic() + patience
    words = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    while True:
        try:
            pid = _ask(domain, "guest-exec", words)["pid"]
            break
        except (libvirt.libvirtError, GuestError) as error:
            if time.monotonic() > deadline:
                raise _silent(str(error)) from error
        time.sleep(0.5)
    deadline = time.monotonic() + timeout
    while True:
        try:
            state = _ask(domain, "guest-exec-status", {"pid": pid})
        except libvirt.libvirtError as error:
            raise _silent(str(error)) from error
        if state.get("exited"):
            break
        if time.monotonic() > deadline:
            raise _silent(f"{argv[0]} did not end within {timeout:.0f} s")
        time.sleep(0.1)
    try:
        output = base64.b64decode(str(state.get("out-data", "")), validate=True)
        errors = base64.b64decode(str(state.get("err-data", "")), validate=True)
    except binascii.Error as error:
        raise _silent(f"it does not keep its protocol: {error}") from error
    if state.get("exitcode") != 0:
        raise GuestError(
            f"{argv[0]} failed in the guest",
            details=errors.decode("utf-8", "replace")[-500:],
            resolution="Is it a box of vagrant-kiwi? Build it anew: invoke box-build.",
        )
    return output.decode("utf-8", "replace")


def _ask(
    domain: libvirt.virDomain, command: str, arguments: Mapping[str, object]
) -> Mapping[str, object]:
    question = json.dumps({"execute": command, "arguments": arguments})
    answer = libvirt_qemu.qemuAgentCommand(domain, question, _ANSWER, 0)
    try:
        returned = json.loads(answer)["return"]
    except (ValueError, KeyError, TypeError) as error:
        raise _silent(f"it does not keep its protocol: {error}") from error
    if not isinstance(returned, dict):
        raise _silent("it does not keep its protocol")
    return returned


def _silent(details: str) -> GuestError:
    return GuestError(
        "The agent in the guest does not answer",
        details=details,
        resolution="Does the box start qemu-guest-agent? Those of vagrant-kiwi do.",
    )
