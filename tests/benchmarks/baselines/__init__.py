"""What a simple method reaches on the data of the applications: the numbers that their configs have to beat."""

Figures = dict[str, dict[str, float]]  # of a method its measures
