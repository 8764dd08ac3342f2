"""The embedded benchmark: drawn faces, or the user's own portraits, and manipulations of them with exact masks.

It stands in for the protocol of the papers (train on one dataset, test on others), not for their datasets: its numbers
never stand beside published ones. :mod:`~dfnb.synth.people` draws people in motion, :mod:`~dfnb.synth.forgeries`
captures, forges and delivers their videos, and :mod:`~dfnb.synth.build` makes datasets of them. What a dataset looks
like is one YAML file in ``data_manifest/``.
"""

from dfnb.synth.build import Person, Settings, build, cast, film, preset
from dfnb.synth.forgeries import METHODS, forge, h264, to_bytes

__all__ = ["METHODS", "Person", "Settings", "build", "cast", "film", "forge", "h264", "preset", "to_bytes"]
