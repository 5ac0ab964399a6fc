"""Better than what: tables of the agents beside other systems (systems/), with intervals.

Needed for the papers' tables and for nothing that learns. Three modules are commands:

    python -m comparisons.compare        every system on the same questions, in one table
    python -m comparisons.answerers      several answer agents on the same questions
    python -m comparisons.recall         how much of the evidence is retrieved at all
"""
