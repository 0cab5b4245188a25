"""``keys revoke``: a key may sign nothing any more, and what rests on it is decided at once.

Order: the targets metadata without the key goes to every log first, so that from there on no entry
that it signs is accepted anywhere; then the live records that rested on it are approved again by
other keys, or deleted. In between they are served on: they were let in by the policy of their time.
A run that was interrupted is ended by the same command, which finds the key without rights and the
records that are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import reason_option
from control_plane.cli.governing import (
    Desk,
    desk,
    expiry_of,
    governing_options,
    new_expiry,
    require_valid,
    told_trust,
    valid_days_option,
)
from control_plane.cli.output import print_json, print_table, progress
from control_plane.cli.settings import key_options, settings, store_options
from control_plane.errors import InputInvalid, NotFound, Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from tuf.api.metadata import Metadata, Targets

    from control_plane.log.statements import Change
    from control_plane.publish.keyfiles import KeySigner
    from control_plane.publish.levelling import Standing
    from control_plane.publish.proposal import Proposal
    from control_plane.publish.trust_changes import Resting
    from control_plane.trust.state import Policy


@click.command()
@click.argument("key_name", metavar="KEY")
@click.option("--reapprove", is_flag=True, help="Sign what rests on it again, with --key.")
@click.option("--delete", is_flag=True, help="Delete what rests on it, signed with --key.")
@click.option(
    "--replace-with", metavar="NAME",
    help="A key that takes its places: of keys/, made when there is none, or a .pub file.",
)  # fmt: skip
@click.option(
    "--targets-key", multiple=True, metavar="FILE",
    help="Key of role targets; default that of keys/. May be repeated.",
)  # fmt: skip
@valid_days_option
@reason_option
@click.option("--dry-run", is_flag=True, help="List what rests on it and write nothing.")
@governing_options
@key_options
@store_options
def revoke(
    key_name: str,
    reapprove: bool,
    delete: bool,
    replace_with: str | None,
    targets_key: tuple[str, ...],
    valid_days: int | None,
    reason: str,
    dry_run: bool,
    directory: str | None,
    enrolment: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Take a key's rights to sign changes and manifests, in every environment.

    KEY is the name of a key file, a key id or its beginning. Live records that rest on the key are
    listed; with --reapprove the same records are signed again by the keys of --key, with --delete
    they are deleted. Without either nothing is changed while there are any.
    """
    if reapprove and delete:
        raise click.UsageError("expected --reapprove or --delete, found both")
    action = "reapprove" if reapprove else "delete" if delete else ""
    with desk(settings(**given), directory, enrolment) as at:
        run = _Revocation(at, key_name, replace_with, action, reason, dry_run)
        run.prepare(targets_key, valid_days)
        if not as_json:
            _print_records(run)
        if not dry_run and not run.undecided():
            run.carry_out()
        if as_json:
            print_json(run.told())
        if not dry_run and run.undecided():
            raise Refused(run.undecided())
    if not as_json:
        _print_end(run)


@dataclass(slots=True)
class _Revocation:
    """One run: first everything is found and checked, then it is carried out."""

    at: Desk
    key_name: str
    replace_with: str | None
    action: str
    reason: str
    dry_run: bool
    key_id: str = ""
    revoked_now: bool = False
    posted: bool = False
    made: Path | None = None
    records: dict[str, list[Resting]] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    _standing: Standing | None = None
    _after: Policy | None = None
    _metadata: Metadata[Targets] | None = None
    _targets_signers: list[KeySigner] = field(default_factory=list)
    _approvers: dict[str, KeySigner] = field(default_factory=dict)
    _new: tuple[Path, Ed25519PrivateKey] | None = None

    @property
    def standing(self) -> Standing:
        """Folder and logs as they were looked at last."""
        assert self._standing is not None
        return self._standing

    @property
    def after(self) -> Policy:
        """The policy in force once the key is revoked."""
        assert self._after is not None
        return self._after

    def prepare(self, targets_key: tuple[str, ...], valid_days: int | None) -> None:
        """Find what rests on the key, and refuse what could not be carried out to its end.

        Raises:
            NotFound: there is no such key.
            Refused: it is a key of a role or a log, a threshold would be out of reach, or keys to
                sign with are missing.
        """
        from control_plane.publish.trust_changes import check_reachable

        levelling = self.at.levelling
        looked = levelling.look()
        self._standing = looked if self.dry_run else levelling.level(looked)
        policy = self.standing.policy
        self.key_id, _ = self.at.named_key(self.key_name, policy)
        _check_kind(policy, self.key_id, self.key_name)
        self.revoked_now = any(self.key_id in each.key_ids for each in policy.delegations)
        instead = self._instead(policy)
        self._after = policy
        if self.revoked_now:
            self._plan(policy, instead, valid_days)
        self._find()
        if self.dry_run:
            return
        if self._metadata is not None:
            check_reachable(policy, self.key_id, self._metadata)
        if self.undecided():
            return
        if self.revoked_now:
            require_valid(policy, "root")
            self._take_targets_signers(policy, targets_key)
        if any(self.records.values()):
            self._take_approvers()
            self._check_proposals()

    def undecided(self) -> str:
        """Why nothing goes on: records rest on the key and nobody said what becomes of them."""
        count = sum(map(len, self.records.values()))
        if self.action or not count:
            return ""
        done = "it was revoked" if self.posted else "nothing was changed"
        return (
            f"key {self.at.name_of(self.key_id)}: expected --reapprove or --delete, found {count}"
            f" live records that rest on it; {done}; look at them, then say which"
        )

    def carry_out(self) -> None:
        """Revoke the key in every log, then approve again or delete, then renew trust.json."""
        levelling = self.at.levelling
        if self._metadata is not None:
            self._make_key()
            self._post()
            # Between the first look and now the key may have let in one more; not from here on.
            self._standing = levelling.look()
            self._find()
        if self.undecided():
            return
        for environment, proposals in self._proposals().items():
            for proposal in proposals:
                self._submit(environment, proposal)
        levelling.write_enrolment(self.standing)

    def told(self) -> dict[str, Any]:
        """The outcome, for an object."""
        return {
            "key_id": self.key_id,
            "dry_run": self.dry_run,
            "revoked": self.posted,
            "action": self.action or None,
            "records": [
                {
                    "environment": environment,
                    "key": str(record.key),
                    "generation": record.head.generation,
                    "verb": record.head.verb,
                    "why": record.why,
                }
                for environment, records in sorted(self.records.items())
                for record in records
            ],
            "generations": self.generations,
            "replaced_with": None if self.made is None else str(self.made),
        } | told_trust(self.standing)

    # Finding

    def _instead(self, policy: Policy) -> bytes | None:
        """The public half of the key that takes the revoked one's places."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from control_plane.names import NAME
        from control_plane.trust.keys import raw_of

        if self.replace_with is None:
            return None
        try:
            key_id, public = self.at.named_key(self.replace_with, policy)
        except NotFound:
            if not self.revoked_now or not NAME.fullmatch(self.replace_with):
                raise
            # In memory until all is checked: a refusal leaves no file behind.
            path = self.at.keys_folder / f"{self.replace_with}.pem"
            self._new = path, Ed25519PrivateKey.generate()
            return raw_of(self._new[1].public_key())
        if key_id == self.key_id or public is None:
            raise InputInvalid(
                f"{self.replace_with}: expected the name or the .pub file of another key"
            )
        return public

    def _plan(self, policy: Policy, instead: bytes | None, valid_days: int | None) -> None:
        from control_plane.publish.trust_changes import planned, targets_without

        expires = new_expiry(valid_days, expiry_of(policy, "targets"))
        self._metadata = targets_without(policy, self.key_id, expires=expires, instead=instead)
        self._after = planned(policy, self._metadata)

    def _find(self) -> None:
        from control_plane.publish.trust_changes import resting

        self.records = {
            environment: resting(
                self.key_id,
                self.after,
                environment,
                history.changes,
                history.heads,
                lambda change, environment=environment: self._document(environment, change),  # type: ignore[misc]
            )
            for environment, history in self.standing.histories.items()
        }

    def _document(self, environment: str, change: Change) -> Mapping[str, Any]:
        from control_plane.log.canonical import parse

        data = self.at.levelling.client.blob(environment, str(change.digest))
        value = parse(data, what=str(change.key))
        if not isinstance(value, dict):
            raise InputInvalid(f"{change.key}: expected a manifest, found other JSON")
        return value

    # Signing

    def _take_targets_signers(self, policy: Policy, named: tuple[str, ...]) -> None:
        from control_plane.publish.trust_changes import check_signers, role_of

        key_ids, threshold = role_of(policy, "targets")
        signers = self.at.signers(named, key_ids)
        check_signers("targets", key_ids, threshold, set(signers), "--targets-key")
        self._targets_signers = [signers[each] for each in key_ids if each in signers]

    def _take_approvers(self) -> None:
        """The keys of --key, else of the settings, and the new one: those with any rights left.

        A store refuses a set with a signature by a key that trust does not name.
        """
        from securesystemslib.signer import CryptoSigner

        wanted: set[str] = set()
        if self.replace_with is not None and self._new is None:
            wanted = {self.at.named_key(self.replace_with)[0]}
        found = self.at.signers(self.at.found.key_files, wanted)
        if self._new is not None:
            signer = CryptoSigner(self._new[1])
            found[signer.public_key.keyid] = signer
        known = frozenset[str]().union(*(each.key_ids for each in self.after.delegations))
        self._approvers = {key_id: signer for key_id, signer in found.items() if key_id in known}

    def _proposals(self) -> dict[str, list[Proposal]]:
        from control_plane.publish.trust_changes import approved_again, deleted

        reason = self.reason or f"key {self.key_id[:12]} was revoked"
        made = {}
        for environment, records in self.records.items():
            if self.action == "delete":
                changes = self.standing.histories[environment].changes
                made[environment] = deleted(environment, records, changes, reason)
            else:
                made[environment] = approved_again(environment, records, reason, self._signed)
        return made

    def _signed(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        from control_plane.publish.sign import signed
        from control_plane.publish.trust_changes import author_of

        author = author_of(self.after, document["kind"], document["name"], self._approvers)
        return signed(document, self._approvers[author])

    def _check_proposals(self) -> None:
        from control_plane.publish.trust_changes import check_approvers

        for environment, proposals in self._proposals().items():
            for proposal in proposals:
                paths = {change.path(environment) for change in proposal.changes.values()}
                check_approvers(self.after, environment, sorted(paths), set(self._approvers))

    # Carrying out

    def _make_key(self) -> None:
        from control_plane.publish.keyfiles import new_key

        if self._new is not None:
            path, private = self._new
            new_key(path, passphrase=self.at.passphrase(), private=private)
            self.made = path

    def _post(self) -> None:
        from control_plane.trust import authoring

        assert self._metadata is not None
        targets = authoring.signed(self._metadata, self._targets_signers)
        self.at.levelling.add(self.standing, root=None, targets=targets)
        self.posted = True

    def _submit(self, environment: str, proposal: Proposal) -> None:
        from control_plane.publish.publisher import Publisher

        origin = self.standing.policy.log(environment).origin
        author = Publisher(
            self.at.levelling.client, *self._approvers.values(), origins={environment: origin}
        )
        with progress(f"{environment}: records") as moved:
            submissions = author.submit(proposal, progress=moved)
        for submission in submissions:
            assert submission.generation is not None
            self.generations[environment] = submission.generation


def _check_kind(policy: Policy, key_id: str, name: str) -> None:
    """A role's or a log's key goes another way."""
    roles = {"root": policy.root_key_ids, "targets": policy.targets_key_ids}
    for role, key_ids in roles.items():
        if key_id in key_ids:
            raise Refused(
                f"{name}: expected a key that signs changes or manifests, found one of role {role};"
                f" run 'control-plane keys rotate-root --role {role}'"
            )
    for environment in policy.environments:
        if policy.log(environment).key_id == key_id:
            raise Refused(
                f"{name}: expected a key that signs changes or manifests, found that of a log; run"
                f" 'control-plane log new-epoch -e {environment} --new-log-key'"
            )


def _print_records(run: _Revocation) -> None:
    name = run.at.name_of(run.key_id)
    rows = [
        (environment, str(record.key), record.head.generation, record.head.verb, record.why)
        for environment, records in sorted(run.records.items())
        for record in records
    ]
    if rows:
        click.echo(f"on key {name} ({run.key_id[:12]}) rest:")
        print_table(("environment", "record", "generation", "changed by", "the key"), rows)
    else:
        click.echo(f"no live record rests on key {name} ({run.key_id[:12]})")


def _print_end(run: _Revocation) -> None:
    name, version = run.at.name_of(run.key_id), run.standing.policy.targets_version
    if run.dry_run:
        click.echo("dry run, nothing written")
        return
    how = "revoked" if run.revoked_now else "had no rights any more"
    click.echo(f"key {name}: {how}; targets version {version} is in every log and in trust.json")
    if run.made is not None:
        click.echo(f"its places are taken by {run.made}")
    done = "deleted" if run.action == "delete" else "approved again"
    for environment, records in sorted(run.records.items()):
        if records:
            click.echo(
                f"  {environment}: {len(records)} {done}, generation {run.generations[environment]}"
            )
    default = run.at.folder / "keys" / "author.pem"
    if run.key_id in {key.key_id for key in run.at.key_files() if key.path == default}:
        click.echo(
            "a project signs with author.pem unless told: pass --key FILE, or set"
            " CONTROL_PLANE_KEY_FILE"
        )
