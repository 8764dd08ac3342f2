"""Datasets: the frames table and its pixels, loading, drawn datasets, faces, audits."""
