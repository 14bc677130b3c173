"""What a user calls a spec -> its file."""

from __future__ import annotations

import re
from pathlib import Path

from optgen.diagnostics.diagnostic import did_you_mean
from optgen.spec.places import SHIPPED, spec_names, suffixes_in, without_suffix

__all__ = ["find_spec", "missing_help"]

FOLDERS = (Path(), Path("specs"), SHIPPED)


def find_spec(name: str) -> str:
    """The path of a spec: `name` itself, or for a bare word such as `adamw` the spec of that name.

    A bare word is looked up here, in the folder specs/ here and among the specs that come with optgen, in this order;
    what is nowhere is returned as it is, for the reader to report. Programs that lie here are no specs unless they are
    named with their suffix.
    """
    if not re.fullmatch(r"[\w-]{1,100}", name) or Path(name).exists():
        return name
    places = [folder / f"{name}{suffix}" for folder in FOLDERS for suffix in suffixes_in(folder)]
    return next((str(place) for place in places if place.is_file()), name)


def missing_help(name: str) -> str:
    """What to do about a spec that is nowhere."""
    known = spec_names(*FOLDERS)
    return did_you_mean(without_suffix(Path(name).name), known) or "name a file, or a spec that 'optgen list' shows"
