"""Keys by the hash of their secret, in memory: so that most requests need no question to the database.

Nothing is admitted by it: `dutchdoor.ledger.admitting` compares each key with the database and drops what is
no longer so. A key that is not dropped in time is refused there, so no process has to tell another.
"""

from dutchdoor.ledger.keys import Key

MOST = 10_000  # keys; some 1 kB each


class KeyCache:
    """At most `MOST` keys; the one put first goes first. Safe to use from several threads."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._keys: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, hash_: str) -> Key | None:
        return self._keys.get(hash_)

    def put(self, key: Key) -> None:
        keys = self._keys
        while len(keys) >= self._most and key.hash not in keys:
            keys.pop(next(iter(keys), ""), None)
        keys[key.hash] = key

    def drop(self, hash_: str) -> None:
        self._keys.pop(hash_, None)
