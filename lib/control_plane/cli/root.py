"""Which verbs there are, and where each lives.

A verb's module loads when it is called, so ``control-plane flag on`` never imports what ``demo``
needs. Services bring their verbs through the entry point group ``control_plane.commands``; the
library names none of their modules.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Final

import click

from control_plane._version import __version__
from control_plane.errors import MissingExtra

GROUP: Final = "control_plane.commands"

SECTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Start": {
        "init": ("project:init", "Make a project folder with keys, a store and examples."),
        "up": ("up:up", "Run store and daemon here and publish manifests/ as it changes."),
        "demo": ("demo:demo", "Show the whole on real processes, then clean up."),
    },
    "Change": {
        "apply": ("applying:apply", "Publish documents to an environment."),
        "promote": ("promoting:promote", "Carry documents from one environment to another."),
        "activate": ("releasing:activate", "Point a channel to a version of an agent or tool."),
        "deprecate": ("releasing:deprecate", "Say that a version should not be used any more."),
        "yank": ("releasing:yank", "Say that a version must not be chosen any more."),
        "delete": ("changing:delete", "Delete a document from an environment."),
        "revert": ("changing:revert", "Put an environment back to an earlier generation."),
        "flag": ("flags:flag", "Switch a flag on or off, or roll it out."),
        "kill": ("flags:kill", "Kill a flag: it serves its disabled variant at once."),
        "unkill": ("flags:unkill", "End a kill."),
        "config": ("config:config", "Read, set, edit, compare and validate configuration."),
        "segment": ("segments:segment", "Add or remove members of a segment."),
        "approve": ("approving:approve", "Add a signature to a change set."),
        "submit": ("approving:submit", "Submit a signed change set from a file."),
        "pending": ("approving:pending", "List change sets that wait for signatures."),
        "pull": ("pulling:pull", "Write an environment's documents back to the files."),
    },
    "Look": {
        "get": ("looking:get", "Print one document."),
        "list": ("looking:list_documents", "List what an environment holds."),
        "diff": ("comparing:diff", "Show how files or environments differ from an environment."),
        "history": ("looking:history", "Show who changed what, and why."),
        "eval": ("evaluating:evaluate", "Evaluate a flag as an application on this node would."),
        "status": ("evaluating:status", "Show the replicas of this node and the store."),
        "doctor": ("doctor:doctor", "Look for what is wrong on this node, and say its cure."),
        "log": ("logs:log", "Verify or export an environment's log, or begin its next epoch."),
        "replica": ("replicas:replica", "Verify this node's replicas, or let one change epochs."),
    },
    "Documents and keys": {
        "sign": ("signing:sign", "Sign agents and tools as their author."),
        "verify": ("signing:verify", "Check documents: form, checksum and signature."),
        "lock": ("locking:lock", "Pin an agent with all it uses, signed; verify or compare locks."),
        "compatibility": ("locking:compatibility", "Compare the schemas of a tool's two versions."),
        "lint": ("linting:lint", "Advise on documents that are allowed and not meant."),
        "schema": ("signing:schema", "Print the JSON Schema of a kind."),
        "codegen": ("codegen:codegen", "Write types of flags and keys for Python's checkers."),
        "import": ("importing:import_", "Make manifests of another system's definitions."),
        "keys": ("keys:keys", "Make keys and trust metadata."),
    },
}

SERVICES: Final = {
    "store": ("store", "Run the central store."),
    "token": ("store", "Make, list and revoke the store's tokens."),
    "daemon": ("daemon", "Run the node's daemon."),
    "sidecar": ("sidecar", "Serve this node's replica over HTTP, for other languages."),
}
"""Verbs that services bring: the extra that installs each, and what it does."""


class Verbs(click.Group):
    """A group that imports a verb's module only when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, those of services that are not installed included."""
        return [name for section in SECTIONS.values() for name in section] + list(SERVICES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb; None for an unknown one."""
        for section in SECTIONS.values():
            if cmd_name in section:
                return _load(section[cmd_name][0])
        return _service(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or name the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"expected a verb, found {args[0]!r}{hint}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs by what they are for, from the table alone."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])
        with formatter.section("Services"):
            formatter.write_dl([(name, text) for name, (_, text) in SERVICES.items()])


def _load(target: str) -> click.Command:
    module, _, name = target.partition(":")
    command = getattr(import_module(f"control_plane.cli.{module}"), name)
    assert isinstance(command, click.Command)
    return command


def _service(name: str) -> click.Command | None:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        if name not in SERVICES:
            return None
        extra = SERVICES[name][0]
        raise MissingExtra(
            f"expected the package of the {extra}, found none; pip install 'control-plane[{extra}]'"
        )
    try:
        command = found[0].load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0].startswith("control_plane"):
            raise
        raise MissingExtra.of(error.name, SERVICES.get(name, ("all",))[0]) from error
    assert isinstance(command, click.Command)
    return command


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="control-plane")
def root() -> None:
    """Signed flags, configuration and manifests for every process of a node.

    Exit codes: 0 done, 1 refused or a negative answer, 2 wrong usage, 3 a package is missing,
    4 the store is not reachable, 5 conflict, 6 trust failure.
    """
