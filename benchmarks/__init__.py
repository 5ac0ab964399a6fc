"""Other people's data and tasks: MSC, LongMemEval, HotpotQA, web shops, sentence encoders.

The root reads LoCoMo and the synthetic world by itself; this folder is for whoever wants more.
"""
