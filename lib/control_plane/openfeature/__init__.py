"""Flags for applications that speak OpenFeature; needs the extra ``openfeature``.

from openfeature import api
from control_plane.openfeature import ControlPlaneProvider

api.set_provider(ControlPlaneProvider())
"""

from __future__ import annotations

from control_plane.errors import MissingExtra

try:
    from control_plane.openfeature.provider import ControlPlaneProvider
except ModuleNotFoundError as error:
    # Other packages put modules under the name openfeature, too, so the one missing may be inside.
    if (error.name or "").partition(".")[0] != "openfeature":
        raise
    raise MissingExtra.of("openfeature", "openfeature") from error

__all__ = ["ControlPlaneProvider"]
