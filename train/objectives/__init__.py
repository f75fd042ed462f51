"""Objectives: each loss and metric is a sum and its weight over examples, divided once at the end."""

from train.objectives.classification import Classification, to_probabilities
from train.objectives.detection import SetPrediction
from train.objectives.groups import GroupDRO, GroupWeights
from train.objectives.language import MaskedLM, NextToken, NextTokens, Translation
from train.objectives.regression import MeanSquaredError, Quantiles

__all__ = [
    "Classification",
    "GroupDRO",
    "GroupWeights",
    "MaskedLM",
    "MeanSquaredError",
    "NextToken",
    "NextTokens",
    "Quantiles",
    "SetPrediction",
    "Translation",
    "to_probabilities",
]
