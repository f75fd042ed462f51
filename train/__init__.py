"""Training, measuring and using models: the commands and what they are made of."""
