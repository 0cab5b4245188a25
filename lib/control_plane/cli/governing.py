"""What the commands share that change who may sign: their folder, store, keys and outcome.

They work on one folder that holds ``keys/``, ``trust/`` and ``trust.json``, the project's
``.control-plane`` unless ``--directory`` names another, and on every environment of one store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from control_plane.cli.output import progress
from control_plane.cli.settings import Settings, require_project, store_client
from control_plane.errors import InputInvalid, NotFound, TrustExpired

if TYPE_CHECKING:
    from control_plane.publish.keyfiles import KeyFile, KeySigner
    from control_plane.publish.levelling import Levelling, Standing
    from control_plane.trust.state import Policy

VALID_DAYS: Final = 1095
"""Three years: how long new metadata is valid at least, unless another time is asked for."""

MAX_DAYS: Final = 36_500
MIN_PREFIX: Final = 8

Function = TypeVar("Function", bound=Callable[..., Any])


def governing_options(function: Function) -> Function:
    """``--directory`` and ``--enrolment``."""
    for option in (
        click.option(
            "--enrolment", metavar="FILE",
            help="The trust.json to verify with and to renew; default the folder's.",
        ),
        click.option(
            "--directory", metavar="DIR",
            help="Folder that holds keys/ and trust/; the project's .control-plane unless given.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def valid_days_option(function: Function) -> Function:
    """``--valid-days``."""
    return click.option(
        "--valid-days", metavar="N", type=click.IntRange(1, MAX_DAYS),
        help="Days until the new metadata expires; default three years, or as before if longer.",
    )(function)  # fmt: skip


@dataclass(slots=True)
class Desk:
    """One run of such a command: its settings, folder and logs."""

    found: Settings
    folder: Path
    levelling: Levelling

    @property
    def keys_folder(self) -> Path:
        """Where the key files are."""
        return self.folder / "keys"

    def key_files(self) -> list[KeyFile]:
        """The key files of the folder; none when it has no keys."""
        from control_plane.publish.keyfiles import list_keys

        return list_keys(self.keys_folder) if self.keys_folder.is_dir() else []

    def passphrase(self) -> bytes | None:
        """What unlocks the key files."""
        return self.found.passphrase()

    def signers(self, named: Iterable[str], key_ids: Iterable[str]) -> dict[str, KeySigner]:
        """Signers by key id: the files that are named, and those of the folder with these ids.

        Raises:
            NotFound, KeyFileRefused, SyntaxInvalid: a key file cannot be used.
        """
        from control_plane.publish.keyfiles import load_signer

        passphrase = self.passphrase()
        loaded = [load_signer(path, passphrase) for path in named]
        have = {signer.public_key.keyid for signer in loaded}
        wanted = set(key_ids) - have
        loaded += [
            load_signer(key.path, passphrase) for key in self.key_files() if key.key_id in wanted
        ]
        return {signer.public_key.keyid: signer for signer in loaded}

    def named_key(self, name: str, policy: Policy | None = None) -> tuple[str, bytes | None]:
        """The id of a key, and its public half where that is at hand.

        ``name`` is the name or path of a key file or its ``.pub``, a key id, or the beginning of
        one that trust or the folder knows.

        Raises:
            NotFound: no key is called so.
            InputInvalid: more than one key id begins so.
        """
        from control_plane.publish.keyfiles import load_public

        for path in (self.keys_folder / f"{name}.pem", Path(name.removesuffix(".pub"))):
            if path.suffix == ".pem" and path.with_name(f"{path.name}.pub").is_file():
                key = load_public(path)
                return key.key_id, key.public
        public = {key.key_id: key.public for key in self.key_files()}
        known = set(public) | (set(policy.keys()) if policy is not None else set())
        if len(name) == 64 and name not in known and set(name) <= set("0123456789abcdef"):
            return name, None  # revoked before, perhaps, with records that still rest on it
        matches = [
            key_id for key_id in known if len(name) >= MIN_PREFIX and key_id.startswith(name)
        ]
        if len(matches) > 1:
            raise InputInvalid(f"{name}: expected the beginning of one key id, found several")
        if not matches:
            raise NotFound(
                f"{name}: expected the name or the id of a key, found none;"
                " 'control-plane keys list' shows them"
            )
        return matches[0], public.get(matches[0])

    def name_of(self, key_id: str) -> str:
        """What a key is called here, else the beginning of its id."""
        names = {key.key_id: key.name for key in self.key_files()}
        return names.get(key_id, key_id[:12])


@contextmanager
def desk(
    found: Settings, directory: str | None, enrolment: str | None, restored: str | None = None
) -> Iterator[Desk]:
    """The desk of a run; its connection to the store is closed at the end."""
    from control_plane.publish.levelling import Levelling

    if directory is None:
        folder = require_project(found, "--directory DIR").private
    else:
        folder = Path(directory)
    file = folder / "trust.json" if enrolment is None else Path(enrolment)
    with store_client(found, waiting=False) as client:
        levelling = Levelling(
            client,
            folder / "trust",
            file,
            restored,
            lambda environment: progress(f"{environment}: entries"),
        )
        yield Desk(found, folder, levelling)


def new_expiry(days: int | None, before: datetime) -> datetime:
    """When new metadata expires: after these days; else in three years, or as before if later."""
    now = datetime.now(UTC).replace(microsecond=0)
    if days is not None:
        return now + timedelta(days=days)
    return max(before, now + timedelta(days=VALID_DAYS))


def expiry_of(policy: Policy, role: str) -> datetime:
    """When root or targets in force expires."""
    from control_plane.trust.metadata import read_root, read_targets

    if role == "root":
        return read_root(policy.root_bytes).metadata.signed.expires
    return read_targets(policy.targets_bytes).metadata.signed.expires


def require_valid(policy: Policy, role: str) -> None:
    """Refuse before anything is made what no log takes while the other metadata has expired.

    Raises:
        TrustExpired: root or targets, as named, has expired.
    """
    expires = expiry_of(policy, role)
    if expires <= datetime.now(UTC):
        raise TrustExpired(
            f"expected {role} metadata that is valid, found that it expired at"
            f" {expires:%Y-%m-%dT%H:%M:%SZ}; run 'control-plane keys rotate-root --renew' first"
        )


def told_trust(standing: Standing) -> dict[str, Any]:
    """Where trust stands, for an object."""
    policy = standing.policy
    return {
        "root_version": policy.root_version,
        "targets_version": policy.targets_version,
        "environments": {name: _told_log(standing, name) for name in sorted(standing.histories)},
    }


def _told_log(standing: Standing, environment: str) -> Mapping[str, Any]:
    position = standing.histories[environment].position
    return {
        "origin": position.origin,
        "size": position.size,
        "generation": position.generation,
    }
