"""Datasets of faces: from videos, pictures or portraits to ``datasets/<name>``.

:mod:`~facesets.frames` is the table of a dataset, a row per frame; :mod:`~facesets.prepare` cuts
the faces out of videos and pictures, whose layouts :mod:`~facesets.published` knows and
:mod:`~facesets.fetch` downloads; :mod:`~facesets.embedded` makes datasets on the spot, of portraits
that :mod:`~facesets.forge` forges and :mod:`~facesets.camera` films; :mod:`~facesets.sources` finds
a dataset by its name. No module needs torch, and none knows a paper: nothing here imports ``dfnb``,
which trains and judges detectors.
"""
