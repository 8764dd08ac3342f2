"""Where a detector looks (:mod:`maps`), and how far to believe its maps (:mod:`measures`)."""
