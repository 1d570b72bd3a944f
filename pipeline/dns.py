"""DNS: any text as a label that Kubernetes takes for the name of an object."""

from __future__ import annotations

_MOST = 40
"""Characters; a label may have 63, and names of pods and services end with more."""


def dns_label(text: str, *, prefix: str) -> str:
    """Return a text as a label of lower-case letters, digits and hyphens (RFC 1035, section 2.3.1).

    A label is its own label. A text that does not begin with a letter gets the prefix, which does.
    """
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")
    label = plain if plain[:1].isalpha() else f"{prefix}-{plain}"
    return label[:_MOST].strip("-")
