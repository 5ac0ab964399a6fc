"""What surrounds a training loop: its options, run folder, logs, pictures, and how it goes on.

The loops at the root name the few functions they call; how those keep a run may be skipped.
"""
