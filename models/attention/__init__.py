"""Attention: softmax attention and its relatives, weights from scores, biases of scores, the core that they share."""
