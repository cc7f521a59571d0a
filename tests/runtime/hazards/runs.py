"""How often each hazard was run at each recorder, in this session."""

from collections import Counter
from typing import Final

RUNS: Final[Counter[tuple[str, str]]] = Counter()
