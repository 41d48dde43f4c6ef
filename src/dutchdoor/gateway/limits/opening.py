"""Which limits `--limits` means."""

from pathlib import Path

from dutchdoor.core import UsageError
from dutchdoor.gateway.limits.interface import Limits
from dutchdoor.gateway.limits.memory import MemoryLimits

SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")


async def open_limits(where: str | None, folder: Path, *, workers: int = 1) -> Limits:
    """`memory`: one process; `host`: the processes that share `folder`; a URL: Redis or Valkey. Null is
    `memory` for one worker, `host` for more. Raises UsageError, EngineError or MissingExtraError.
    """
    check_limits(where, workers)
    if where is not None and where.startswith(SCHEMES):
        from dutchdoor.gateway.limits.redis import RedisLimits  # brings its library

        limits = RedisLimits(where.replace("valkey", "redis", 1) if where.startswith("valkey") else where)
        await limits.open()
        return limits
    if where == "host" or (where is None and workers > 1):
        from dutchdoor.gateway.limits.host import HostLimits

        return HostLimits(folder)
    return MemoryLimits()


def check_limits(where: str | None, workers: int) -> None:
    """Raises UsageError where limits are none of these, or would not be shared by the workers."""
    if where == "memory" and workers > 1:
        raise UsageError(
            "--limits memory counts in one process, and there are several workers",
            hint="leave it out, or name a server: redis://HOST",
        )
    if where is not None and where not in ("memory", "host") and not where.startswith(SCHEMES):
        raise UsageError(f"--limits {where!r} is nothing known", hint="memory, host, or redis://HOST:6379/0")
