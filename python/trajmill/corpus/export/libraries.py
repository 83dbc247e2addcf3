"""Libraries that only some formats need, imported when they are."""

from __future__ import annotations

import importlib
from typing import Any

from trajmill.corpus.export.reading import ExportError


def needed(module: str) -> Any:
    """Import `module`; ExportError that names the extra if it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ExportError(f"this format needs {name}; install it with: pip install 'trajmill[export]'") from error
