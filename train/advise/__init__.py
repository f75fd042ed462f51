"""Advice on a model for the user's data: the task, simple methods, short trials of models, and a recommendation."""
