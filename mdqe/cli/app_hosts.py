"""The hosts and origins from which `mdqe app` accepts requests.

A page of another server could otherwise use the app through the browser of a visitor: by a request across origins, or
after its own host name was changed to the address of the app (DNS rebinding).
"""

import re
from collections.abc import Iterable, MutableMapping
from ipaddress import IPv6Address, ip_address
from typing import Any

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::(\d{1,5}))?", re.ASCII)
ORIGIN = re.compile(r"https?://(.+)")


class Hosts:
    """The hosts that requests may name.

    They are the address that the server listens on, localhost, the address that the request came in at, and `names`.

    Args:
        address: the address or name that the server listens on.
        names: further names, such as that of a proxy in front of the server.
    """

    def __init__(self, address: str, names: Iterable[str] = ()) -> None:
        self.names = {_normal(one) for one in names}
        self.allowed = {_normal(one) for one in (address, *LOOPBACK)} | self.names

    def problem(self, scope: MutableMapping[str, Any]) -> str | None:
        """Why an ASGI request is not accepted; None if it is."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        own = _normal((scope.get("server") or ("",))[0])
        if len(hosts) != 1:
            return "expected one Host header"
        hosts += [one.strip() for value in _values(scope, b"x-forwarded-host") for one in value.split(",")]
        for host in hosts:
            name = host_name(host)
            if name is None:
                return "the Host header is malformed"
            if name not in self.allowed and name != own:
                return f"host {name} is not allowed; the server can allow it with --allow-host {name}"
        for origin in origins:
            found = ORIGIN.fullmatch(origin)
            if found is None or not (host_name(found[1]) in self.names or _same_site(found[1], hosts)):
                return "requests from other sites are not allowed"
        return None


def host_name(text: str) -> str | None:
    """The name or address of a Host header "NAME:PORT", without the port; None if it is malformed."""
    found = HOST.fullmatch(text.lower())
    return _normal(found[1] or found[2]) if found else None


def _normal(name: str) -> str:
    """A name in lower case, an address in its shortest form."""
    name = name.lower().strip("[]").rstrip(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _same_site(origin: str, hosts: Iterable[str]) -> bool:
    """Whether a host with its port is one of others. Browsers leave out the ports 80 and 443."""
    short = [re.sub(r":(80|443)$", "", one.lower()) for one in (origin, *hosts)]
    return short[0] in short[1:]


def _values(scope: MutableMapping[str, Any], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]
