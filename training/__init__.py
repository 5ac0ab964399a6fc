"""What surrounds a training loop: options, run folder, an LLM judge, pictures, how it goes on.

The loops at the root name the few functions they call; how those keep a run may be skipped.
"""
