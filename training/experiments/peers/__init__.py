"""Networks after the ideas of other authors, small enough for two cores, to be compared with on the same folds."""
