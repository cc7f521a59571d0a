"""Logging: one line an event, on standard error."""

import logging

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PLAIN_LINE = "%(message)s"  # for a person who watches
NOISY = ("httpx", "httpcore", "kafka")


def configure_logging(*, line: str = LINE) -> None:
    logging.basicConfig(level=logging.INFO, format=line, force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
