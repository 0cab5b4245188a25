"""``keys rotate-root``: other keys, another threshold or a later expiry for root and targets.

A new root is signed by the threshold of keys of the root before it, and by its own. Other keys for
role targets take a new root too, and targets signed again by them; a later expiry of targets takes
no new root. All logs get the result; see ``control_plane.publish.levelling`` for what a crash
leaves and why the same command then ends what it began.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.governing import (
    Desk,
    desk,
    expiry_of,
    governing_options,
    new_expiry,
    told_trust,
    valid_days_option,
)
from control_plane.cli.output import print_json
from control_plane.cli.settings import key_options, settings, store_options
from control_plane.errors import InputInvalid, NotFound

if TYPE_CHECKING:
    from control_plane.publish.levelling import Standing
    from control_plane.publish.trust_changes import RoleChange
    from control_plane.trust.state import Policy


@click.command("rotate-root")
@click.option(
    "--role", type=click.Choice(("root", "targets")), default="root", show_default=True,
    help="The role whose keys change.",
)  # fmt: skip
@click.option("--add", multiple=True, metavar="NAME|PUB", help="Key that joins the role.")
@click.option("--remove", multiple=True, metavar="NAME|ID", help="Key that leaves the role.")
@click.option(
    "--threshold", metavar="N", type=click.IntRange(1), help="Keys of the role that must sign."
)
@click.option("--renew", is_flag=True, help="Keep the keys; only move the expiry.")
@valid_days_option
@click.option("--dry-run", is_flag=True, help="Say what would change and write nothing.")
@governing_options
@key_options
@store_options
def rotate_root(
    role: str,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    threshold: int | None,
    renew: bool,
    valid_days: int | None,
    dry_run: bool,
    directory: str | None,
    enrolment: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Change the keys that may change trust: new root metadata in every log.

    Without --add, --remove, --threshold and --renew the role's one key is replaced by a new one,
    ROLE-VERSION.pem beside the old. Keys of keys/ that are needed sign without being named; others
    are named with --key. Nodes follow by themselves.
    """
    changes = bool(add or remove or threshold is not None)
    if renew and changes:
        raise click.UsageError("expected --renew or other keys, found both; renew afterwards")
    with desk(settings(**given), directory, enrolment) as at:
        run = _Rotation(at, role, tuple(given.get("key") or ()), valid_days, dry_run)
        if renew:
            outcome = run.renewed()
        elif changes:
            outcome = run.changed(add, remove, threshold)
        else:
            outcome = run.replaced()
    _print(outcome, role, dry_run, as_json)


class _Rotation:
    """One run; each way to rotate gives what is to be told about it."""

    def __init__(
        self, at: Desk, role: str, named: tuple[str, ...], valid_days: int | None, dry_run: bool
    ) -> None:
        self._at = at
        self._role = role
        self._named = named
        self._valid_days = valid_days
        self._dry_run = dry_run
        looked = at.levelling.look()
        # Found before anything is mended: whether the last run ended.
        self._interrupted = at.levelling.is_behind(looked)
        self._standing = looked if dry_run else at.levelling.level(looked)

    def replaced(self) -> dict[str, Any]:
        """The role's one key replaced by a new one."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from control_plane.publish.keyfiles import load_private_key, load_signer, new_key
        from control_plane.publish.trust_changes import RoleChange, role_of
        from control_plane.trust.keys import key_id_of, raw_of

        policy = self._standing.policy
        key_ids, _ = role_of(policy, self._role)
        if self._interrupted and key_ids == self._own_key(policy.root_version):
            return self._ended(self._standing, "finished what an earlier run began")
        if len(key_ids) != 1:
            raise InputInvalid(
                f"role {self._role}: expected one key to replace, found {len(key_ids)};"
                " say which with --add and --remove"
            )
        path = self._path(policy.root_version + 1)
        # A crash may have left the file; nobody knows its key, so it is as good as new.
        private = (
            load_private_key(path, self._at.passphrase())
            if path.exists()
            else Ed25519PrivateKey.generate()
        )
        public = raw_of(private.public_key())
        change = RoleChange(self._role, (public,), frozenset(key_ids))
        signers = self._signers(change, {key_id_of(public)})
        if not self._dry_run and not path.exists():
            new_key(path, passphrase=self._at.passphrase(), private=private)
        if not self._dry_run:
            signers[key_id_of(public)] = load_signer(path, self._at.passphrase())
        told = self._sent(change, signers)
        return told | {"file": str(path), "replaced": self._at.name_of(key_ids[0])}

    def changed(
        self, add: tuple[str, ...], remove: tuple[str, ...], threshold: int | None
    ) -> dict[str, Any]:
        """Keys that join and leave, and another threshold."""
        from control_plane.publish.trust_changes import RoleChange, role_of

        policy = self._standing.policy
        key_ids, held = role_of(policy, self._role)
        joining = dict(self._public(name, policy) for name in add)
        leaving = {self._at.named_key(name, policy)[0] for name in remove}
        if (
            set(joining) <= set(key_ids)
            and not leaving & set(key_ids)
            and threshold in (None, held)
        ):
            return self._ended(self._standing, "stands already")
        change = RoleChange(self._role, tuple(joining.values()), frozenset(leaving), threshold)
        return self._sent(change, self._signers(change))

    def renewed(self) -> dict[str, Any]:
        """The same keys, another expiry."""
        from control_plane.publish.trust_changes import check_signers, next_targets, role_of
        from control_plane.trust import authoring

        if self._role == "root" or self._has_expired("root"):
            return self._sent(None, self._signers(None))
        policy = self._standing.policy
        key_ids, threshold = role_of(policy, "targets")
        signers = self._at.signers(self._named, key_ids)
        check_signers("targets", key_ids, threshold, set(signers))
        metadata = next_targets(policy, expires=self._expires("targets"))
        if self._dry_run:
            return self._ended(self._standing, "dry run, nothing written")
        targets = authoring.signed(metadata, [signers[each] for each in key_ids if each in signers])
        self._at.levelling.add(self._standing, root=None, targets=targets)
        return self._ended(self._at.levelling.look(), "done")

    def _sent(self, change: RoleChange | None, signers: dict[str, Any]) -> dict[str, Any]:
        """Sign the next root, and targets where their keys change, and hand them in."""
        from control_plane.publish.trust_changes import next_root, next_targets, role_of
        from control_plane.trust import authoring

        standing, policy = self._standing, self._standing.policy
        metadata = next_root(policy, expires=self._expires("root"), change=change)
        if self._dry_run:
            return self._ended(standing, "dry run, nothing written")
        before, _ = role_of(policy, "root")
        wanted = {*before, *metadata.signed.roles["root"].keyids}
        root = authoring.signed(metadata, [signers[each] for each in wanted if each in signers])
        targets = policy.targets_bytes
        if self._renews_targets():
            again = next_targets(policy, expires=self._expires("targets"))
            holders = metadata.signed.roles["targets"].keyids
            targets = authoring.signed(again, [signers[key] for key in holders if key in signers])
        self._at.levelling.add(standing, root=root, targets=targets)
        return self._ended(self._at.levelling.look(), "done")

    def _signers(self, change: RoleChange | None, coming: set[str] | None = None) -> dict[str, Any]:
        """Signers enough for the root in force, the next one, and targets that change hands.

        ``coming`` are keys that will be made once all this is known to succeed.
        """
        from control_plane.publish.trust_changes import check_signers, next_root, role_of

        policy = self._standing.policy
        after = next_root(policy, expires=self._expires("root"), change=change).signed.roles
        before, threshold = role_of(policy, "root")
        roles = ["root", "targets"] if self._renews_targets() else ["root"]
        wanted = {*before, *(key for role in roles for key in after[role].keyids)}
        signers = self._at.signers(self._named, wanted)
        have = set(signers) | (coming or set())
        check_signers(f"root version {policy.root_version}", before, threshold, have)
        for role in roles:
            check_signers(f"the next {role}", after[role].keyids, after[role].threshold, have)
        return signers

    def _ended(self, standing: Standing, how: str) -> dict[str, Any]:
        """What is told at the end, once the enrolment file is as new as the logs."""
        if not self._dry_run and (how == "done" or self._interrupted):
            self._at.levelling.write_enrolment(standing)
        from control_plane.publish.trust_changes import role_of

        key_ids, threshold = role_of(standing.policy, self._role)
        names = [self._at.name_of(key_id) for key_id in key_ids]
        return told_trust(standing) | {
            "role": self._role,
            "outcome": how,
            "keys": list(key_ids),
            "names": names,
            "threshold": threshold,
        }

    def _renews_targets(self) -> bool:
        """Whether a new root takes targets along: asked for, or no entry passes while they are out.

        Root and targets of a new installation expire at one moment, and a log takes neither alone
        after it.
        """
        return self._role == "targets" or self._has_expired("targets")

    def _has_expired(self, role: str) -> bool:
        return expiry_of(self._standing.policy, role) <= datetime.now(UTC)

    def _expires(self, role: str) -> datetime:
        return new_expiry(self._valid_days, expiry_of(self._standing.policy, role))

    def _path(self, version: int) -> Path:
        return self._at.keys_folder / f"{self._role}-{version}.pem"

    def _own_key(self, version: int) -> tuple[str, ...]:
        """The key that the last run made, as the role's keys would list it."""
        path = self._path(version)
        return tuple(key.key_id for key in self._at.key_files() if key.path == path)

    def _public(self, name: str, policy: Policy) -> tuple[str, bytes]:
        key_id, public = self._at.named_key(name, policy)
        if public is None:
            raise NotFound(
                f"{name}: expected a key file or its .pub, found a key id only; make a key with"
                " 'control-plane keys new NAME', or name the .pub file of another person's"
            )
        return key_id, public


def _print(outcome: dict[str, Any], role: str, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**outcome, "dry_run": dry_run})
        return
    names = ", ".join(outcome["names"])
    click.echo(
        f"role {role}: {outcome['outcome']}; root version {outcome['root_version']}, targets"
        f" version {outcome['targets_version']}, {outcome['threshold']} of {names} must sign"
    )
    for environment, log in outcome["environments"].items():
        click.echo(f"  {environment}: generation {log['generation']}")
    if "replaced" in outcome and not dry_run:
        click.echo(
            f"the new key is {outcome['file']}: keep it where '{outcome['replaced']}' was kept,"
            " and destroy that one"
        )
