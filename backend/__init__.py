"""What makes a model load and fit: files, adapters, attention kernels, many devices.

Nothing here changes a number that the algorithms see, so a reader of them may skip it.
"""
