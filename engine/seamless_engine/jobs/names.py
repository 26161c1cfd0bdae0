"""Names of output files, and hashes: what stays equal from run to run."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_LONGEST = 160  # bytes of an id in a file name, of the 255 that file systems allow
_KEPT = 100  # characters of a longer one, at least a byte each


def file_stem(id: str, task: str, language: str) -> str:
    """`<id>.<task>.<language>`, the id escaped so that it names one file and no path.

    Letters and digits of any script, `-`, `_` and `.` stay; other characters, and a first dot, are %XX as in a URL, so
    that `urllib.parse.unquote` gives the id. A longer id is cut, and `~` and its hash follow.
    """
    name = "".join(map(_escaped, id))
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name.encode()) > _LONGEST:
        start = name[:_KEPT].encode()[: _LONGEST - 33].decode(errors="ignore")
        name = f"{start}~{hashlib.blake2b(id.encode(), digest_size=16).hexdigest()}"
    return f"{name}.{task}.{''.join(map(_escaped, language))}"


def hash_of(*values: Any) -> str:
    """16 hexadecimal digits of plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=plain)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def plain(value: Any) -> Any:
    """What JSON has for a value that it does not know, of a parquet file: bytes by their number and checksum."""
    if isinstance(value, bytes):
        return {"bytes": len(value), "crc32": zlib.crc32(value)}
    return str(value)


def is_in_shard(id: str, shard: tuple[int, int]) -> bool:
    """Whether the k-th of n shards has the item. The id alone decides, so that new inputs move no others."""
    k, n = shard
    return zlib.crc32(id.encode()) % n == k - 1


def _escaped(character: str) -> str:
    if character in _PLAIN or (not character.isascii() and character.isalnum()):
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode())
