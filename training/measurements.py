"""What clinicians measure, and the ear points that the paper's Table 7 leaves out; the facts are in the JSON beside."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def measurements() -> dict[str, Any]:
    """``distances`` and ``angles`` by their landmarks' labels, ``ears`` the eight labels of the ears' rims."""
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
