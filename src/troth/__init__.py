"""Troth: a durable-promise server.

The package's subpackages are links to the folders at the repository's root (see README.md).
"""

__version__ = "0.1.0"
