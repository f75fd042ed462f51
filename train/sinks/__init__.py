"""Sinks for the events of a run, one file each: JSON lines, TensorBoard, Weights & Biases, MLflow."""
