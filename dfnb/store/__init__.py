"""What trainings leave and presentation reads: records of runs, scores, thresholds, reports.

Nothing here needs torch.
"""
