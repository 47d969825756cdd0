"""Which ports of this machine answer at addresses that others can reach."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

import psutil


def addresses() -> list[str]:
    """This machine's own beyond loopback; none where it has no network."""
    all_of_them = [at.address for interface in psutil.net_if_addrs().values() for at in interface]
    plain = [address for address in all_of_them if "%" not in address and (":" in address or "." in address)]
    return [address for address in plain if _is_outside(address)]


def open_beyond_loopback(ports: Iterable[int]) -> set[int]:
    """Those of the ports that somebody else could connect to."""
    return {port for port in ports for address in addresses() if _answers(address, port)}


def _is_outside(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:  # a network card's own address
        return False


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
