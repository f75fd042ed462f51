"""Reviews of a trained model: metrics over all examples by their field's own library, and pictures."""
