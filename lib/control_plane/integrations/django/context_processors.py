"""``flags`` in every template: ``{% if flags.new_home %}``."""

from __future__ import annotations

from typing import Any

from control_plane.integrations import current


class TemplateFlags:
    """Whether a flag is on for the caller, by its name; asked when the template comes to it."""

    __slots__ = ()

    def __getitem__(self, name: str) -> bool:
        return current.flags().is_enabled(str(name))


def flags(request: Any) -> dict[str, TemplateFlags]:
    """For the option ``context_processors`` of a template engine."""
    return {"flags": TemplateFlags()}
