"""The process that judged code runs in: started by `sandbox.py` with `python -I -S`, imports nothing of
Dutchdoor.

Reads requests from its stdin and forks one child for each. The child closes the way back to the parent
before the code runs; all it keeps is a pipe to this process, which reads a bounded answer, waits no longer
than told, and kills what is left.
"""

# ruff: noqa: BLE001, S102, PTH110, PTH123, SIM105, SIM115 - it runs code that may do anything, on bare descriptors

# What judged code may import must be loaded before the filter falls: afterwards nothing can be opened.
import array
import base64
import bisect
import collections
import copy
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import hashlib
import heapq
import itertools
import json
import math
import operator
import os
import platform
import random
import re
import resource
import select
import signal
import statistics
import string
import struct
import sys
import textwrap
import time
import typing
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn

Request = dict[str, Any]
LOADED = (
    array, base64, bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, heapq,  # noqa: E501 - a pattern or a table is read in one piece
    itertools, math, operator, random, re, statistics, string, textwrap, typing, unicodedata,
)  # fmt: skip
RESULT_BYTES = 1 << 20

# System calls that a running interpreter needs to compute and to leave, by number (Linux: asm/unistd.h of each machine).  # noqa: E501 - a pattern or a table is read in one piece
ALLOWED = {
    "x86_64": (0xC000003E, {
        "write": 1, "close": 3, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "mremap": 25, "madvise": 28, "getpid": 39, "exit": 60,
        "gettimeofday": 96, "sigaltstack": 131, "gettid": 186, "futex": 202, "clock_gettime": 228,
        "clock_nanosleep": 230, "exit_group": 231, "getrandom": 318,
    }),
    "aarch64": (0xC00000B7, {
        "close": 57, "write": 64, "exit": 93, "exit_group": 94, "futex": 98, "clock_gettime": 113,
        "clock_nanosleep": 115, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "gettimeofday": 169, "getpid": 172, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
        "mprotect": 226, "madvise": 233, "getrandom": 278,
    }),
}  # fmt: skip
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 22, 2, 38, 4  # linux/prctl.h
RET_ALLOW, RET_ERRNO_EPERM, RET_KILL = 0x7FFF0000, 0x00050001, 0x80000000  # linux/seccomp.h
REFUSED_EVENTS = ("open", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "import", "pty.", "fcntl.", "mmap.",
                  "glob.", "tempfile.", "urllib.", "signal.", "sys.addaudithook", "resource.", "syslog.")  # fmt: skip


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def kernel_filter() -> tuple[Any, Program] | None:
    """The seccomp filter as (buffer, program), or None where there is none."""
    if not sys.platform.startswith("linux") or platform.machine() not in ALLOWED or sys.maxsize < 2**32:
        return None
    machine, calls = ALLOWED[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    rows = [(load, 0, 0, 4), (equal, 1, 0, machine), (give, 0, 0, RET_KILL), (load, 0, 0, 0)]
    for i, number in enumerate(sorted(calls.values())):
        rows.append((equal, len(calls) - i, 0, number))
    rows += [(give, 0, 0, RET_ERRNO_EPERM), (give, 0, 0, RET_ALLOW)]
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *row) for row in rows))
    return buffer, Program(len(rows), ctypes.cast(buffer, ctypes.c_void_p))


def close_the_kernel(library: Any, program: Program) -> bool:
    """True if the filter now stands."""
    library.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(library.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def refuse(event: str, _: object) -> None:
    """The audit hook of where no filter stands."""
    if event.startswith(REFUSED_EVENTS):
        raise PermissionError(event)


def limit(request: Request) -> None:
    """Resource limits; the address space counts from what the interpreter has already."""
    cpu = int(request["cpu_s"])
    with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else open(os.devnull) as statm:
        words = statm.read().split()
    now = int(words[0]) * resource.getpagesize() if words else 0
    for name, soft, hard in (
        ("RLIMIT_CPU", cpu, cpu + 1),
        ("RLIMIT_AS", now + request["memory_bytes"], now + request["memory_bytes"]),
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NPROC", 0, 0),
        ("RLIMIT_NOFILE", 0, 0),
    ):
        try:
            resource.setrlimit(getattr(resource, name), (soft, hard))
        except (AttributeError, OSError, ValueError):
            if name in ("RLIMIT_CPU", "RLIMIT_FSIZE"):
                raise


def called(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    """One call as what is sent back."""
    try:
        value = function(*arguments)
        json.dumps(value)  # what has no JSON form is no result
        return {"value": value}
    except BaseException as error:
        return {"error": type(error).__name__}


def run(request: Request, pipe: int, library: Any, program: Program | None) -> NoReturn:
    """In the child: shuts every door, then runs the code and sends the results through the pipe. Does not
    return.
    """
    send, leave, encode = os.write, os._exit, json.dumps
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 256)
        sys.stdin, sys.stdout, sys.stderr = None, open(1, "w", closefd=False), open(2, "w", closefd=False)
        calls = [request["calls"], request["code"], request["function"]]
        limit(request)
        if program is None or not close_the_kernel(library, program):
            sys.addaudithook(refuse)
        try:
            scope: dict[str, Any] = {"__name__": "answer", "__builtins__": __builtins__}
            exec(compile(calls[1], "<answer>", "exec"), scope)
            function = scope[calls[2]]
            answer: dict[str, Any] = {"results": [called(function, arguments) for arguments in calls[0]]}
        except BaseException as error:
            answer = {"error": type(error).__name__}
        body = encode(answer).encode()
        while body:
            body = body[send(pipe, body) :]
    except BaseException:
        leave(1)
    leave(0)


def watch(request: Request, library: Any, program: Program | None) -> dict[str, Any]:
    """Forks the child, reads what it sends until it ends or its time is over, and tells what came."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        run(request, writing, library, program)
    os.close(writing)
    deadline = time.monotonic() + request["wall_s"]
    body, problem = b"", None
    while problem is None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            problem = "timeout"
            break
        piece = os.read(reading, 65536)
        if not piece:
            break
        body += piece
        if len(body) > RESULT_BYTES:
            problem = "too much"
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.close(reading)
    os.waitpid(child, 0)
    if problem is not None:
        return {"error": problem}
    try:
        answer = json.loads(body)
    except ValueError:
        return {"error": "died"}
    return answer if isinstance(answer, dict) else {"error": "out of form"}


def exactly(size: int) -> bytes:
    """That many bytes of stdin; leaves when it ends."""
    body = b""
    while len(body) < size:
        piece = os.read(0, size - len(body))
        if not piece:
            os._exit(0)
        body += piece
    return body


def reply(value: object) -> None:
    """One framed answer."""
    body = json.dumps(value).encode()
    body = struct.pack("<I", len(body)) + body
    while body:
        body = body[os.write(1, body) :]


def filter_holds(library: Any, program: Program | None) -> bool:
    """Tries the filter on a child, so that the parent can tell what protects it."""
    if program is None:
        return False
    child = os.fork()
    if child == 0:
        if not close_the_kernel(library, program):
            os._exit(1)
        try:
            os.open("/", os.O_RDONLY)
        except PermissionError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def main() -> NoReturn:
    """Serves requests until stdin ends."""
    filtered = kernel_filter()
    library = ctypes.CDLL(None, use_errno=True) if filtered else None
    program = filtered[1] if filtered else None
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody touches them
    reply({"kernel_filter": filter_holds(library, program)})
    while True:
        (size,) = struct.unpack("<I", exactly(4))
        reply(watch(json.loads(exactly(size)), library, program))


if __name__ == "__main__":
    main()
