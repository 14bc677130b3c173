"""What a user calls a spec -> its file."""

from __future__ import annotations

import os
from pathlib import Path

from optgen.spec.inherit import SHIPPED

__all__ = ["find_spec"]


def find_spec(name: str) -> str:
    """The path of a spec: `name` itself, or for a bare word such as `adamw` the spec of that name.

    A bare word is looked up here, in the folder specs/ here and among the specs that come with optgen, in this order;
    what is nowhere is returned as it is, for the reader to report.
    """
    path = Path(name)
    if path.suffix or len(path.parts) != 1 or os.path.exists(path):
        return name
    places = (folder / f"{name}.yaml" for folder in (Path(), Path("specs"), SHIPPED))
    return next((str(place) for place in places if os.path.isfile(place)), name)  # unlike Path's, it is never too long
