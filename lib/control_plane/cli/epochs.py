"""``log new-epoch``: a log goes on under another origin, number or key.

It is the way out when a store was restored from an older backup, when a log's key may be known to
others, or when its clock was wrong. The new root names what is continued, to the byte: the size and
root of the log as it was verified a moment ago. Generations begin far above any that is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

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
from control_plane.cli.output import print_json
from control_plane.cli.settings import (
    environment_option,
    key_options,
    settings,
    store_options,
)
from control_plane.errors import EpochDiverged, NotFound

if TYPE_CHECKING:
    from control_plane.publish.keyfiles import KeySigner
    from control_plane.publish.levelling import Standing
    from control_plane.trust.state import LogIdentity

ATTEMPTS: Final = 3
"""A busy log may grow between the look and the new root; it is looked at again."""

DONE: Final = "done"
FINISHED: Final = "finished what an earlier run began"


@click.command("new-epoch")
@environment_option
@click.option(
    "--generation", metavar="N", type=click.IntRange(0), default=0,
    help="A generation that a node has seen, when that may be more than the store knows.",
)  # fmt: skip
@click.option(
    "--new-log-key", is_flag=True,
    help="Make another key for the log, keys/log-ENV.EPOCH.pem; the store reads it there.",
)  # fmt: skip
@click.option(
    "--restored", is_flag=True,
    help="The store was restored: go on from what it holds, though trust.json knows of more.",
)  # fmt: skip
@valid_days_option
@click.option("--dry-run", is_flag=True, help="Say what would be signed and write nothing.")
@governing_options
@key_options
@store_options
def new_epoch(
    environment: str,
    generation: int,
    new_log_key: bool,
    restored: bool,
    valid_days: int | None,
    dry_run: bool,
    directory: str | None,
    enrolment: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Let an environment's log go on in a new epoch, signed by the root key.

    Verifies the whole log, signs the next root, hands it to every environment's log and writes a
    new trust.json. Nodes whose history is the one that is continued follow by themselves; a node
    that holds more keeps its data until 'control-plane replica accept-epoch' is run there.
    """
    with desk(settings(**given), directory, enrolment, environment if restored else None) as at:
        run = _NewEpoch(at, environment, tuple(given.get("key") or ()), valid_days)
        outcome = run.begun(generation, new_log_key, dry_run)
    _print(environment, outcome, dry_run, as_json)


class _NewEpoch:
    """One run: it looks, signs and hands in, again when the log grew meanwhile."""

    def __init__(
        self, at: Desk, environment: str, named: tuple[str, ...], valid_days: int | None
    ) -> None:
        self._at = at
        self._environment = environment
        self._named = named
        self._valid_days = valid_days

    def begun(self, generation: int, new_log_key: bool, dry_run: bool) -> dict[str, Any]:
        """Begin the epoch; what is to be told about it.

        Raises:
            EpochDiverged: the log grew each time before the root arrived.
        """
        for attempt in range(1, ATTEMPTS + 1):
            standing = self._looked(dry_run)
            if self._finished(standing):
                self._at.levelling.write_enrolment(standing)
                return self._told(standing, FINISHED)
            signers = self._signers(standing)
            log = self._next_log(standing, generation, new_log_key, dry_run)
            root = self._root(standing, log, signers)
            if dry_run:
                return self._told(standing, "dry run, nothing written") | {"next": log.to_json()}
            try:
                self._at.levelling.add(
                    standing,
                    root=root,
                    targets=standing.policy.targets_bytes,
                    first=self._environment,
                )
                return self._told(self._at.levelling.enrol(), DONE)
            except EpochDiverged:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError

    def _looked(self, dry_run: bool) -> Standing:
        levelling = self._at.levelling
        standing = levelling.look()
        if self._environment not in standing.histories:
            raise NotFound(
                f"{self._environment}: expected one of {', '.join(sorted(standing.histories))}"
            )
        # The log itself gets the roots it lacks with its new epoch: it is continued as it is.
        return standing if dry_run else levelling.level(standing, but=self._environment)

    def _finished(self, standing: Standing) -> bool:
        """Whether an earlier run began the epoch and did not end."""
        held = standing.histories[self._environment].position.epoch
        enrolled = self._at.levelling.enrolment().policy()
        if self._environment not in enrolled.environments:
            return False
        named = standing.policy.log(self._environment).epoch
        return enrolled.log(self._environment).epoch < held == named

    def _next_log(
        self, standing: Standing, generation: int, new_log_key: bool, dry_run: bool
    ) -> LogIdentity:
        from control_plane.publish.trust_changes import GENERATION_GAP
        from control_plane.trust.authoring import new_log

        before = standing.policy.log(self._environment)
        position = standing.histories[self._environment].position
        known = max(position.generation, generation, self._enrolled_generation())
        epoch = max(before.epoch, position.epoch) + 1
        public = before.public
        if new_log_key:
            public = self._new_public(epoch, dry_run)
        elif not dry_run:
            self._keep_log_key(before.key_id, epoch)
        return new_log(
            before.installation,
            self._environment,
            public,
            epoch=epoch,
            continues={
                "epoch": position.epoch,
                "size": position.size,
                "root": position.frontier.root().hex(),
                "generation": known + GENERATION_GAP,
            },
            witnesses=dict(before.witnesses),
        )

    def _enrolled_generation(self) -> int:
        """What trust.json knows to have been sequenced, also when the store has forgotten it."""
        from control_plane.log.checkpoint import open_checkpoint

        enrolment = self._at.levelling.enrolment()
        note = enrolment.checkpoints.get(self._environment)
        if note is None:
            return 0
        log = enrolment.policy().log(self._environment)
        size = open_checkpoint(note, log.vkeys, witnesses=log.witnesses).checkpoint.size
        continued = 0 if log.continues is None else log.continues["generation"]
        assert isinstance(continued, int)
        return continued + size

    def _new_public(self, epoch: int, dry_run: bool) -> bytes:
        """The public half of the log's new key, which is made unless there is one.

        It may have been made where the store is, with only its .pub brought here, or by a run that
        was interrupted.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from control_plane.publish.keyfiles import load_public, new_key
        from control_plane.trust.keys import raw_of

        path = self._key_path(epoch)
        if path.with_name(f"{path.name}.pub").exists():
            return load_public(path).public
        if path.exists():
            return next(key.public for key in self._at.key_files() if key.path == path)
        if dry_run:
            return raw_of(Ed25519PrivateKey.generate().public_key())
        # Without a passphrase: a service that starts alone reads it.
        return new_key(path).public

    def _keep_log_key(self, key_id: str, epoch: int) -> None:
        """Let the store find a key that came with an earlier epoch under the new one's number.

        It looks there first and then for the log's first key, log-ENV.pem.
        """
        from control_plane.publish.keyfiles import load_private_key, log_key_name, new_key

        path = self._key_path(epoch)
        first = f"{log_key_name(self._environment)}.pem"
        held = [key.path for key in self._at.key_files() if key.key_id == key_id]
        if held and not path.exists() and first not in {each.name for each in held}:
            new_key(path, private=load_private_key(held[0]))

    def _key_path(self, epoch: int) -> Path:
        from control_plane.publish.keyfiles import log_key_name

        return self._at.keys_folder / f"{log_key_name(self._environment)}.{epoch}.pem"

    def _signers(self, standing: Standing) -> list[KeySigner]:
        from control_plane.publish.trust_changes import check_signers, role_of

        policy = standing.policy
        require_valid(policy, "targets")
        key_ids, threshold = role_of(policy, "root")
        signers = self._at.signers(self._named, key_ids)
        check_signers(f"root version {policy.root_version}", key_ids, threshold, set(signers))
        return [signers[key_id] for key_id in key_ids if key_id in signers]

    def _root(self, standing: Standing, log: LogIdentity, signers: list[KeySigner]) -> bytes:
        from control_plane.publish.trust_changes import next_root
        from control_plane.trust import authoring

        policy = standing.policy
        expires = new_expiry(self._valid_days, expiry_of(policy, "root"))
        metadata = next_root(policy, expires=expires, logs=[log])
        return authoring.signed(metadata, signers)

    def _told(self, standing: Standing, how: str) -> dict[str, Any]:
        log = standing.policy.log(self._environment)
        return told_trust(standing) | {
            "environment": self._environment,
            "outcome": how,
            "epoch": log.epoch,
            "continues": None if log.continues is None else dict(log.continues),
            "diverged": {name: str(error) for name, error in self._at.levelling.diverged.items()},
        }


def _print(environment: str, outcome: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**outcome, "dry_run": dry_run})
        return
    log = outcome.get("next") or outcome
    continues = log["continues"]
    click.echo(
        f"{environment}: {outcome['outcome']}; epoch {log['epoch']} continues epoch"
        f" {continues['epoch']} at size {continues['size']}, generations go on above"
        f" {continues['generation']}"
    )
    if not dry_run:
        click.echo(
            f"root version {outcome['root_version']} is in every log and in trust.json: give that"
            " to new nodes"
        )
    for name in outcome["diverged"]:
        click.echo(
            f"{name}: its log does not take this root: 'control-plane log new-epoch -e {name}"
            " --restored' is next",
            err=True,
        )
