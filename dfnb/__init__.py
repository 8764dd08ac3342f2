"""Deepfake detection papers, reproduced in notebooks that run."""

from importlib.metadata import version

__version__ = version("dfnb")
