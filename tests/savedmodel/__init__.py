"""SavedModels, run by TensorFlow without jax (`make savedmodel`)."""
