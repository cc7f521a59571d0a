import pytest
from tests.runtime.hazards.runs import RUNS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not RUNS:
        return
    terminalreporter.section("hazards")
    for contender in dict.fromkeys(name for name, _ in RUNS):
        counts = [runs for (name, _), runs in RUNS.items() if name == contender]
        terminalreporter.write_line(
            f"{contender}: {len(counts)} hazards, {sum(counts)} runs ({min(counts)} or more of each)"
        )
