"""Sets logging up, once, for structlog and for what uses the standard library's logging: the core, and libraries.

One line per entry on standard error: JSON for collectors, coloured text on a terminal. No secret leaves: see
`redaction`.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import TextIO

import msgspec

from meshway.kernel.clock import Clock, rfc3339_ms
from meshway.observability.light_structlog import structlog
from meshway.observability.redaction import redact
from meshway.observability.settings import LogSettings

__all__ = ["configure_logging"]

_Entry = MutableMapping[str, object]
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Libraries that say at `info` what the hub says itself, better.
_CHATTY = ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "asyncio")
# Loggers of this name and below are ours.
_OWN = "meshway"
# What every record has; anything more came in as `extra`. The last three are structlog's own words.
_RECORD_NAMES = {*vars(logging.makeLogRecord({})), "message", "asctime", "event", "level", "exc_info"}


def configure_logging(settings: LogSettings, *, clock: Clock, stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (standard error by default). Call once, before anything logs; again only in tests."""
    output = stream or sys.stderr
    pretty = settings.format == "pretty" or (settings.format == "auto" and output.isatty())
    level = _LEVELS[settings.level]

    def add_time(logger: object, method: str, entry: _Entry) -> _Entry:
        entry["at"] = rfc3339_ms(clock.now_ms())
        return entry

    renderer = (
        structlog.dev.ConsoleRenderer(
            colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="at"
        )
        if pretty
        else _render_json
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            add_time,
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_LineLoggerFactory(output),
        # Loggers are made where they are used; without this each would go through the configuration every time.
        cache_logger_on_first_use=stream is None,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=level, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _render_json(logger: object, method: str, entry: _Entry) -> str:
    """Time, level and event first, so that lines can be read where they are not parsed."""
    ordered = {name: entry.pop(name) for name in ("at", "level", "event") if name in entry}
    return msgspec.json.encode({**ordered, **entry}, enc_hook=repr).decode()


class _LineLogger:
    """Writes one entry as one line. A log that cannot be written must not stop the hub."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def msg(self, text: str) -> None:
        try:
            self._output.write(f"{text}\n")
            self._output.flush()
        except (OSError, ValueError):
            # The reader of the pipe is gone, or the disk is full. There is nowhere left to say so.
            return

    debug = info = warning = error = critical = exception = log = fatal = msg


class _LineLoggerFactory:
    def __init__(self, output: TextIO) -> None:
        self._output = output

    def __call__(self, *names: object) -> _LineLogger:
        return _LineLogger(self._output)


class _ToStructlog(logging.Handler):
    """Entries of the standard library's logging become entries like any other.

    The core logs that way, because it knows no logging library: its message is the event, its `extra` the fields.
    What libraries log is the event `library_logged`, with their logger's name and their message.
    """

    def emit(self, record: logging.LogRecord) -> None:
        # Libraries have levels of their own (uvicorn's trace is 5); structlog knows the five.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] is not None else None
        fields = {name: value for name, value in vars(record).items() if name not in _RECORD_NAMES}
        if record.name.partition(".")[0] == _OWN:
            structlog.get_logger().log(level, _text_of(record), **fields, exc_info=exc_info)
            return
        fields |= {"logger": record.name, "message": _text_of(record)}
        structlog.get_logger().log(level, "library_logged", **fields, exc_info=exc_info)


def _text_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # A library's format string does not fit its arguments; the raw text still says something.
        return str(record.msg)
