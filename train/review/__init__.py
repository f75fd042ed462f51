"""What is made of a trained model: metrics by their field's own library over all examples, and pictures."""
