"""Tasks: one data set a kind of batch, from sentences to trajectories."""
