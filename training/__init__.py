"""What surrounds a training loop: options, experts, run folder, an LLM judge, pictures, resume.

The loops at the root name the few functions they call; how those keep a run may be skipped.
"""
