"""What a box must not carry: the rules, and where they are looked for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagrant_kiwi import box_look, box_verify
from vagrant_kiwi.box_look import Entry, Kind, look_into
from vagrant_kiwi.box_verify import Look, problems
from vagrant_kiwi.keys import RSA_LINE, public_line_fingerprint


def key_line(comment: str = "joe@example.org") -> str:
    """Return a public key's line; another comment, another key."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + comment.encode()[:32]
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


def said(look: Look, *, stated_kiwi: str | None = None, allowed: tuple[str, ...] = ()) -> list[str]:
    return list(problems(look, stated_kiwi=stated_kiwi, allowed_keys=allowed))


# --- The rules ---------------------------------------------------------------------------------


def test_a_box_as_ours_is_good() -> None:
    look = Look(
        authorized_keys=(("/home/vagrant/.ssh/authorized_keys", RSA_LINE),),
        kiwis=(("/opt/kiwi/lib/python3.11/site-packages", "11.1.6"),),
    )
    assert said(look, stated_kiwi="11.1.6") == []
    assert look.kiwi == "11.1.6"


def test_each_thing_is_named() -> None:
    line = key_line()
    look = Look(
        host_keys=("/etc/ssh/ssh_host_rsa_key",),
        buried_host_keys=("/etc/ssh/ssh_host_ed25519_key",),
        machine_id="0123456789abcdef0123456789abcdef",
        authorized_keys=(("/root/.ssh/authorized_keys", line),),
        key_sources=("authorizedkeyscommand /usr/bin/keys",),
        kiwis=(("/usr/lib/python3/dist-packages", "9.24.56"),),
        random_seed=True,
        unread=("partition 2: btrfs",),
    )
    fingerprint = public_line_fingerprint(line)
    assert said(look, stated_kiwi="11.1.6") == [
        "It cannot be looked into: partition 2: btrfs.",
        "It carries SSH host keys, the same for all guests: /etc/ssh/ssh_host_rsa_key.",
        "A layer below carries SSH host keys that a later one deletes, so whoever has the image "
        "has them: /etc/ssh/ssh_host_ed25519_key.",
        "It carries a machine-id, the same for all guests: 0123456789abcdef0123456789abcdef.",
        "It carries a random seed, the same for all guests: /var/lib/systemd/random-seed.",
        "/root/.ssh/authorized_keys lets in a key that is not Vagrant's: "
        f"ssh-ed25519 {fingerprint} (joe@example.org).",
        "Its sshd takes keys from elsewhere, too: authorizedkeyscommand /usr/bin/keys.",
        "KIWI 9.24.56 is in it (/usr/lib/python3/dist-packages), but 11.1.6 is stated.",
    ]


@pytest.mark.parametrize(
    ("kiwis", "stated", "number"),
    [
        ((), None, 0),
        ((("/a", "10.2.40"),), None, 0),
        ((("/a", "10.2.40"),), "10.2.40", 0),
        ((), "10.2.40", 1),
        ((("/a", "11.1.6"), ("/b", "10.2.40")), "10.2.40", 1),
        ((("/a", "11.1.6"), ("/b", "9.1")), "10.2.40", 2),
    ],
)
def test_kiwi_is_compared_with_what_is_stated(
    kiwis: tuple[tuple[str, str], ...], stated: str | None, number: int
) -> None:
    assert len(said(Look(kiwis=kiwis), stated_kiwi=stated)) == number


def test_what_was_not_read_may_have_kiwi() -> None:
    assert said(Look(unread=("btrfs",)), stated_kiwi="11.1.6") == [
        "It cannot be looked into: btrfs."
    ]


def test_a_key_of_the_caller_is_allowed_whatever_stands_around_it() -> None:
    mine = key_line("mine")
    bare = " ".join(mine.split()[:2])
    for line in (mine, f"{bare} other comment", f'command="echo \\"hi\\" x",no-pty {mine}'):
        look = Look(authorized_keys=(("/root/.ssh/authorized_keys", line),))
        assert said(look, allowed=(mine,)) == []
        assert len(said(look)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "ssh-rsa",
        "ssh-rsa !!!",
        "ssh-rsa " + key_line().split()[1],
        'command="no end ssh-rsa AAAA',
        "1024 35 12345",
    ],
)
def test_a_line_that_is_no_key_is_named(line: str) -> None:
    look = Look(authorized_keys=(("/root/.ssh/authorized_keys", line),))
    (sentence,) = said(look)
    assert sentence == f"/root/.ssh/authorized_keys has a line that is no key: {line}."


def test_names_from_inside_are_printable_and_not_too_many() -> None:
    look = Look(
        host_keys=tuple(f"/\x1b[31m{number}/ssh_host_rsa_key\udcff" for number in range(100)),
        authorized_keys=tuple(("/a\nb", key_line(f"key {number}")) for number in range(100)),
        machine_id="x" * 100_000,
    )
    sentences = said(look)
    assert all(sentence.isprintable() and len(sentence) < 1000 for sentence in sentences)
    assert "/\\x1b[31m0/ssh_host_rsa_key\\udcff" in sentences[0]
    assert sentences[0].endswith("and 94 more.")
    assert sentences[-1].startswith("94 more keys")


@given(st.text())
def test_whatever_is_shown_can_be_printed(text: str) -> None:
    assert box_verify.shown(text).isprintable()


@given(st.text())
def test_no_line_is_good_but_an_allowed_key(line: str) -> None:
    look = Look(authorized_keys=(("/root/.ssh/authorized_keys", line),))
    assert len(said(look)) == 1


# --- Where it is looked for --------------------------------------------------------------------


@dataclass
class FakeTree:
    """Files by path; a link is ``-> target``, and None cannot be read."""

    files: Mapping[str, str | None]
    extra: dict[str, Entry] = field(default_factory=dict)

    @property
    def entries(self) -> Mapping[str, Entry]:
        found: dict[str, Entry] = {}
        for path, text in self.files.items():
            parts = path.split("/")[1:-1]
            for depth in range(1, len(parts) + 1):
                found["/" + "/".join(parts[:depth])] = Entry(Kind.FOLDER)
            link = text is not None and text.startswith("-> ")
            found[path] = Entry(Kind.LINK if link else Kind.FILE, 9 if text is None else len(text))
        return {**found, **self.extra}

    def target(self, path: str) -> str | None:
        text = self.files[path]
        return None if text is None else text.removeprefix("-> ")

    def content(self, path: str) -> bytes | None:
        assert self.entries[path].kind is Kind.FILE
        text = self.files[path]
        return None if text is None else text.encode()


def look(files: Mapping[str, str | None]) -> Look:
    return look_into(FakeTree(files))


def test_an_empty_box_has_nothing() -> None:
    assert look({}) == Look()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/etc/ssh/ssh_host_rsa_key-cert.pub",
        "/etc/ssh/ssh_host_key",
        "/etc/ssh/ssh_host_ecdsa_key.dpkg-old",
        "/etc/ssh/ssh_host_ecdsa_key~",
        "/etc/dropbear/dropbear_rsa_host_key",
        "/etc/dropbear/initramfs/dropbear_ed25519_host_key",
        "/srv/chroot/etc/ssh/ssh_host_rsa_key",
    ],
)
def test_host_keys_are_found_by_their_names(path: str) -> None:
    assert look({path: "secret"}).host_keys == (path,)


def test_what_only_looks_like_a_host_key_is_none() -> None:
    files = {
        "/etc/ssh/ssh_host_rsa_key": "",
        "/etc/ssh/ssh_host_ecdsa_key": "-> /run/keys/ecdsa",
        "/usr/lib/python3/ssh_host_key_files.py": "import this",
        "/usr/bin/dropbearkey": "program",
        "/etc/ssh/ssh_host_dsa_key/readme": "a folder",
    }
    assert look(files).host_keys == ()


def test_host_keys_are_found_where_sshd_has_them_and_through_links() -> None:
    files = {
        "/etc/ssh/sshd_config": "HostKey /var/keys/one\nHostKey=/var/keys/missing\n",
        "/var/keys/one": "secret",
        "/var/keys/two": "secret",
        "/etc/ssh/ssh_host_rsa_key": "-> ../../var/keys/two",
    }
    assert look(files).host_keys == ("/var/keys/one", "/var/keys/two")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"/etc/machine-id": ""}, None),
        ({"/etc/machine-id": "uninitialized\n"}, None),
        ({"/etc/machine-id": "0" * 32 + "\n"}, "0" * 32),
        ({"/etc/machine-id": "", "/var/lib/dbus/machine-id": "1" * 32}, "1" * 32),
        ({"/etc/machine-id": "", "/var/lib/dbus/machine-id": "-> /etc/machine-id"}, None),
        ({"/etc/machine-id": "-> /etc/machine-id"}, None),
        ({"/etc/machine-id": "-> nowhere"}, None),
    ],
)
def test_the_machine_id(files: Mapping[str, str], found: str | None) -> None:
    assert look(files) == Look(machine_id=found)


def test_a_random_seed_counts_if_there_is_one() -> None:
    assert look({"/var/lib/systemd/random-seed": "noise"}).random_seed
    assert not look({"/var/lib/systemd/random-seed": ""}).random_seed


def test_keys_are_found_wherever_sshd_would_look() -> None:
    files = {
        "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nvagrant:x:1000:1000::/srv/v:/bin/sh\n"
        "daemon:x:1:1::/nonexistent:/bin/false\nnothing\n",
        "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n",
        "/etc/ssh/sshd_config.d/site.conf": "include more/*\n# AuthorizedKeysFile /no/%u\n"
        "authorizedkeysfile = .ssh/authorized_keys /etc/keys/%u-%U%% none\n",
        "/etc/ssh/more/a b": 'Match User vagrant\n  AuthorizedKeysFile "%h/my keys"\n',
        "/etc/keys/vagrant-1000%": "key 1\n",
        "/srv/v/my keys": "key 2\n\n# comment\nkey 3\n",
        "/srv/v/.ssh/authorized_keys2": "key 4\n",
        "/root/.ssh": "-> /var/root-ssh",
        "/var/root-ssh/authorized_keys": "key 5\n",
        "/etc/skel/.ssh/authorized_keys": "key 6\n",
        "/etc/dropbear/authorized_keys": "key 7\n",
        "/no/vagrant": "no key\n",
        "/home/.ssh/authorized_keys": "",
    }
    assert look(files).authorized_keys == (
        ("/etc/dropbear/authorized_keys", "key 7"),
        ("/etc/keys/vagrant-1000%", "key 1"),
        ("/etc/skel/.ssh/authorized_keys", "key 6"),
        ("/srv/v/.ssh/authorized_keys2", "key 4"),
        ("/srv/v/my keys", "key 2"),
        ("/srv/v/my keys", "key 3"),
        ("/var/root-ssh/authorized_keys", "key 5"),
    )


def test_other_sources_of_keys_are_found() -> None:
    files = {
        "/etc/ssh/sshd_config": "AuthorizedKeysCommand none\nTrustedUserCAKeys /etc/ssh/ca.pub\n",
        "/usr/etc/ssh/sshd_config.d/10-x.conf": "AuthorizedKeysCommand /usr/bin/keys %u\n",
    }
    assert look(files).key_sources == (
        "trustedusercakeys /etc/ssh/ca.pub",
        "authorizedkeyscommand /usr/bin/keys %u",
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (
            {"/opt/kiwi/lib/python3.11/site-packages/kiwi-11.1.6.dist-info/METADATA": "x\n"},
            ("/opt/kiwi/lib/python3.11/site-packages", "11.1.6"),
        ),
        (
            {"/usr/lib/python3/dist-packages/kiwi-9.24.56.egg-info/PKG-INFO": "Version: 9.24.57\n"},
            ("/usr/lib/python3/dist-packages", "9.24.57"),
        ),
        (
            {"/usr/lib/python3.6/site-packages/kiwi-9.1-py3.6.egg-info": "Name: kiwi\n"},
            ("/usr/lib/python3.6/site-packages", "9.1"),
        ),
        ({"/usr/lib/python3/dist-packages/kiwi_boxed_plugin-1.0.dist-info/METADATA": ""}, None),
        ({"/usr/lib/python3/dist-packages/kiwisolver-1.0.dist-info/METADATA": ""}, None),
        ({"/usr/share/doc/kiwi-1.0.dist-info/METADATA": ""}, None),
    ],
)
def test_kiwi_is_found_where_python_has_it(
    files: Mapping[str, str], found: tuple[str, str] | None
) -> None:
    assert look(files).kiwis == ((found,) if found else ())


def test_what_cannot_be_read_is_told() -> None:
    files: dict[str, str | None] = {
        "/etc/machine-id": None,
        "/etc/passwd": None,
        "/root/.ssh/authorized_keys": None,
    }
    assert look(files).unread == (
        "/etc/machine-id",
        "/etc/passwd",
        "/root/.ssh/authorized_keys",
    )
    long = FakeTree({"/etc/passwd": "x" * (box_look.READ_LIMIT + 1)})
    assert look_into(long).unread == ("/etc/passwd has 1048577 bytes",)
    link = Entry(Kind.LINK, 9)
    tree = FakeTree({"/etc/machine-id": None}, {"/etc/machine-id": link})
    assert look_into(tree).unread == ("/etc/machine-id",)


def test_settings_that_include_each_other_have_an_end() -> None:
    files = {
        "/etc/ssh/sshd_config": "Include *\nHostKey /key\n",
        "/etc/ssh/a": "Include sshd_config\n" + "".join(f"Include {n}\n" for n in range(1000)),
        "/key": "secret",
    }
    found = look(files)
    assert found.host_keys == ("/key",)
    assert found.unread == ("sshd's settings include 1002 others",)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a/b/../c", "/a/c"),
        ("/../a/./c", "/a/c"),
        ("/up/c", "/a/c"),
        ("/abs", "/a/c"),
        ("/loop", None),
        ("/a/missing", None),
        ("/", ""),
    ],
)
def test_links_are_followed_as_the_kernel_does(path: str, found: str | None) -> None:
    tree = FakeTree(
        {
            "/a/c": "x",
            "/a/b/d": "x",
            "/up": "-> a/b/..",
            "/abs": "-> /../../a/c",
            "/loop": "-> loop2",
            "/loop2": "-> /loop",
        }
    )
    assert box_look.resolve(tree, path, lost=lambda link: pytest.fail(link)) == found
