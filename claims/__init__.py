"""Every claim of the two papers in miniature: `python -m claims` trains, scores and compares."""
