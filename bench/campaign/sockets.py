"""Connections of our own processes, ended from outside while they are in use: whatever was under way is lost.

A descriptor of another process is had by pidfd_getfd(2), of Linux 5.6; shut down, both ends find it closed.
"""

import ctypes
import os
import socket
from typing import Final

import psutil

PIDFD_GETFD: Final = 438
"""Its number, on every architecture."""


def cut(process: psutil.Process, port: int) -> int:
    """Every connection of the process to this port; how many there were."""
    pid = os.pidfd_open(process.pid)
    try:
        there = [one for one in process.net_connections("tcp") if getattr(one.raddr, "port", None) == port]
        return sum(_cut(pid, one.fd) for one in there)
    finally:
        os.close(pid)


def _cut(pid: int, descriptor: int) -> bool:
    """False where it has been closed meanwhile, or this machine does not let us."""
    ours = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pid, descriptor, 0)
    if ours < 0:
        return False
    with socket.socket(fileno=ours) as connection:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
    return True
