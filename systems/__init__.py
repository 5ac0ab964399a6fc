"""Other memories, each at its essence: what the agents are compared with.

rules_and_mem0.py and graphs_and_tools.py hold those of Memory-R1's tables, own_past.py the one of
MEM1's. The commands that compare are in comparisons/.
"""
