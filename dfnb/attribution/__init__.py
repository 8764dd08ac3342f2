"""Where a detector looks (:mod:`maps`), and how far its maps can be believed (:mod:`measures`)."""
