"""``{% load control_plane %}``: parts of a template that a flag turns on.

    {% flag "new_home" %}…{% else %}…{% endflag %}
    {% flag "new_home" default=True %}…{% endflag %}
    {% flag_value "banner" "none" as banner %}

They ask for the caller of the request that runs, see `control_plane.integrations.current`.
"""

from __future__ import annotations

from typing import Any

from django import template

from control_plane.integrations import current

register = template.Library()


class FlagNode(template.Node):  # type: ignore[misc]  # Django has no types
    """One ``flag`` block."""

    def __init__(self, name: Any, default: Any, enabled: Any, disabled: Any) -> None:
        self._name = name
        self._default = default
        # Where Django looks for the nodes inside.
        self.nodelist_true = enabled
        self.nodelist_false = disabled

    child_nodelists = ("nodelist_true", "nodelist_false")

    def render(self, context: Any) -> Any:
        """What the flag chooses."""
        default = False if self._default is None else bool(self._default.resolve(context))
        name = str(self._name.resolve(context))
        chosen = current.flags().is_enabled(name, default=default)
        return (self.nodelist_true if chosen else self.nodelist_false).render(context)


def flag(parser: Any, token: Any) -> FlagNode:
    """The block up to ``endflag``, or up to ``else`` for callers who have the flag."""
    tag, *words = token.split_contents()
    if not 1 <= len(words) <= 2 or not all(word.startswith("default=") for word in words[1:]):
        raise template.TemplateSyntaxError(
            f"{tag}: expected a name and perhaps default=…, found {len(words)} words"
        )
    name = parser.compile_filter(words[0])
    default = parser.compile_filter(words[1].removeprefix("default=")) if words[1:] else None
    enabled = parser.parse(("else", "endflag"))
    disabled = template.NodeList()
    if parser.next_token().contents == "else":
        disabled = parser.parse(("endflag",))
        parser.delete_first_token()
    return FlagNode(name, default, enabled, disabled)


def flag_value(name: str, default: Any = None) -> Any:
    """The value served to the caller, of the type of ``default``."""
    return current.flags().value(str(name), default)


register.tag(flag)
register.simple_tag(flag_value)
