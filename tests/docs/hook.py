"""What mkdocs calls while it builds `docs/`: adds the pages that are made from the code."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# mkdocs runs this file by its path; the repository is not on Python's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.docs.reference import pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them to what there is."""
    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files
