"""Names in the Host header of a request to a server on loopback.

A page from elsewhere can point its own name at 127.0.0.1 (DNS rebinding), and then reads and writes as if it came from
the server itself. Its requests carry that name as Host, so such a server accepts only names that no page can choose:
localhost, IP addresses and its own configured name.
"""

import re
from ipaddress import ip_address

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::\d{0,5})?")


def host_name(authority: str) -> str:
    """Return the name or address in a Host header, lower case, without port and brackets; empty if it is malformed.

    Syntax: RFC 9110, section 7.2.
    """
    found = _AUTHORITY.fullmatch(authority)
    return found[1].strip("[]").lower() if found else ""


def is_address(host: str) -> bool:
    """Whether the text is an IP address, which needs no name service."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a name or address is loopback; names other than localhost are not resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    return is_address(host) and ip_address(host.strip("[]")).is_loopback
