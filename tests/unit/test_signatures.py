"""What gpg's status lines say about signatures."""

from __future__ import annotations

import pytest

from vagrant_kiwi.signatures import read_status

KEY = "4B5066AF999949D1F20BCE199B953AF114B6247F"
GOOD = f"GOODSIG {KEY[-16:]} Good One <good@example.org>"
VALID = f"VALIDSIG {'A' * 40} 2026-11-28 1795826696 0 4 0 22 8 00 {KEY}"


def lines(*said: str) -> list[str]:
    """Return status lines, among what else gpg may write."""
    return ["gpg: something", *(f"[GNUPG:] {line}" for line in said)]


def test_a_good_signature_is_its_primary_key_s() -> None:
    (verdict,) = read_status(lines("NEWSIG", "SIG_ID x", GOOD, VALID))
    assert verdict.signer == f"{KEY} (Good One <good@example.org>)"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([GOOD], "does not say that it is good"),
        ([VALID], "does not say that it is good"),
        ([GOOD, "VALIDSIG x"], "does not say that it is good"),
        ([], "does not say that it is good"),
        ([GOOD, VALID.replace(" 22 8 ", " 22 2 ")], "SHA-1"),
        ([GOOD, VALID.replace(" 22 8 ", " 22 1 ")], "MD5"),
        ([GOOD, VALID.replace(" 8 00 ", " 8 01 ")], "signs a text"),
        ([f"EXPSIG {KEY} x", VALID], "the signature has expired"),
        ([f"EXPKEYSIG {KEY} x", VALID], "the key has expired"),
        ([f"REVKEYSIG {KEY} x", VALID], "the key was revoked"),
        ([f"BADSIG {KEY} x", GOOD, VALID], "not a signature of this file"),
        ([f"ERRSIG {KEY} 22 8 00 1 9 {KEY}"], "not in the keyring"),
        ([f"ERRSIG {KEY} 22 8 00 1 39 {KEY}"], "gpg cannot check it (reason 39)"),
        ([f"ERRSIG {KEY} 22 8"], "gpg cannot check it"),
    ],
)
def test_all_else_is_none(said: list[str], problem: str) -> None:
    (verdict,) = read_status(lines("NEWSIG", *said))
    assert not verdict.signer
    assert problem in verdict.problem


def test_what_is_said_of_one_signature_is_not_said_of_another() -> None:
    bad, good, unknown = read_status(
        lines(
            *("NEWSIG", f"BADSIG {KEY} x"),
            *("NEWSIG", GOOD, VALID),
            *("NEWSIG", f"ERRSIG {KEY} 22 8 00 1 9 {KEY}", f"NO_PUBKEY {KEY}"),
        )
    )
    assert (bad.bad, good.bad, unknown.bad) == (True, False, False)
    assert (bad.unknown, good.unknown, unknown.unknown) == (False, False, True)
    assert good.signer


def test_only_status_lines_count() -> None:
    assert read_status(["NEWSIG", GOOD, VALID, f"gpg: [GNUPG:] {GOOD}"]) == []
