"""What the two agents are compared with: other memory systems, a judge, retrieval by itself.

Needed for the papers' tables and for nothing that learns.
"""
