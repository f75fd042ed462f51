"""`morphax audit`: privacy, contents and bias of a trained run, one file each."""

HELP = "audit a run: privacy, what it contains of its data, bias"
EXAMPLES = """
examples:
  morphax audit bias runs/reviews --groups gender,region    measures by group and intersection, with gaps
  morphax audit contents runs/sentiment_bert                what each file holds of the data
  morphax audit privacy runs/sentiment_bert                 membership by losses, with intervals
"""
