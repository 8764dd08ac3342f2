"""The embedded benchmark: drawn faces, or the user's portraits, and forgeries with exact masks.

It simulates the protocol of the papers (train on one dataset, test on others), not their datasets:
its numbers are never compared with published ones. :mod:`~dfnb.synth.people` draws people in
motion and :mod:`~dfnb.synth.painting` paints them, :mod:`~dfnb.synth.forgeries` captures, forges
and delivers their videos, and :mod:`~dfnb.synth.building` makes datasets of them. Each is described
by a YAML file in ``data_manifest/embedded/``; datasets that differ only in what is drawn share one.
"""

from dfnb.synth.building import Person, build, cast, excerpt, fetch, film
from dfnb.synth.forgeries import METHODS, forge, to_bytes
from dfnb.synth.presets import Settings, preset, preset_identity

__all__ = [
    "METHODS",
    "Person",
    "Settings",
    "build",
    "cast",
    "excerpt",
    "fetch",
    "film",
    "forge",
    "preset",
    "preset_identity",
    "to_bytes",
]
