"""What the gateway writes down about a request: one JSON line, without prompts, answers or keys."""

import logging
import sys
import time

import msgspec

from dutchdoor.gateway.record import Done, Refused, Tried

requests = logging.getLogger("dutchdoor.gateway.requests")
faults = logging.getLogger("dutchdoor.gateway")


def write(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Log `{"event": …, …}`; the fields are counts, names and ids."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", msgspec.json.encode({"event": event, **fields}).decode())


class _Line(logging.Formatter):
    """Time and level in front of the object's own fields, so that a line is one JSON value."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        fields = msgspec.json.decode(text) if text.startswith("{") else {"event": text}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z"
        return msgspec.json.encode({"at": stamp, "level": record.levelname.lower(), **fields}).decode()


def to_stderr(level: int = logging.INFO) -> None:
    """Write the gateway's log as JSON lines to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    faults.addHandler(handler)
    faults.setLevel(level)
    faults.propagate = False


class RequestLog:
    """One JSON line for each request, as an observer."""

    def done(self, done: Done) -> None:
        write(
            requests,
            logging.INFO,
            "request",
            id=done.id,
            model=done.model,
            target=done.target,
            state=done.state,
            stream=done.stream,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            ms=round(done.total_s * 1000),
        )

    def refused(self, refused: Refused) -> None:
        write(requests, logging.INFO, "refused", id=refused.id, status=refused.status, code=refused.code)

    def tried(self, tried: Tried) -> None:
        """Told of a failure where it is known what it was."""

    def close(self) -> None:
        """Nothing is held."""
