"""The sandbox gives what code computes, and each way out of it is shut."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dutchdoor.vetting.sandbox import CodeSandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox forks")


@pytest.fixture
async def sandbox() -> AsyncIterator[CodeSandbox]:
    async with CodeSandbox(workers=2, wall_s=1.5) as one:
        yield one


async def outcome(sandbox: CodeSandbox, code: str, *arguments: object) -> tuple[object, str | None]:
    (result,) = await sandbox.call(code, "f", [list(arguments)])
    return result.value, result.error


async def test_a_function_gives_its_results_one_a_call(sandbox: CodeSandbox) -> None:
    results = await sandbox.call("def f(x, y=1):\n    return [x * y, (x,)]", "f", [[2], [3, 4]])
    assert [r.value for r in results] == [[2, [2]], [12, [3]]]


async def test_an_exception_is_a_result_and_the_other_calls_go_on(sandbox: CodeSandbox) -> None:
    results = await sandbox.call("def f(x):\n    return 1 // x", "f", [[0], [1]])
    assert (results[0].error, results[1].value) == ("ZeroDivisionError", 1)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def f(:", "SyntaxError"),
        ("def g(): pass", "KeyError"),
        ("raise ValueError", "ValueError"),
        ("def f(): return object()", "TypeError"),
        ("def f(): return f()", "RecursionError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import sys\ndef f(): sys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "died"),
        ("def f(): raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
async def test_code_that_fails_says_how(sandbox: CodeSandbox, code: str, error: str) -> None:
    assert (await outcome(sandbox, code))[1] == error


@pytest.mark.parametrize("code", ["def f():\n    while True: pass", "def f():\n    while True: print('x' * 9999)",
                                  "import time\ndef f(): time.sleep(60)"])  # fmt: skip
async def test_endless_code_is_stopped(sandbox: CodeSandbox, code: str) -> None:
    started = time.monotonic()
    assert (await outcome(sandbox, code))[1] in ("timeout", "died")
    assert time.monotonic() - started < 6
    assert (await outcome(sandbox, "def f(): return 1"))[0] == 1


@pytest.mark.parametrize(
    "code", ["def f(): return len(bytearray(1 << 34))", "def f(): return len('x' * (1 << 33))"]
)
async def test_a_memory_bomb_gets_no_memory(sandbox: CodeSandbox, code: str) -> None:
    assert (await outcome(sandbox, code))[1] == "MemoryError"


async def test_a_result_without_end_is_cut(sandbox: CodeSandbox) -> None:
    assert (await outcome(sandbox, "def f(): return 'x' * (2 << 20)"))[1] == "too much"


ESCAPES = {
    "reads a file": "open('/etc/passwd').read()",
    "lists a folder": "__import__('os').listdir('/')",
    "writes a file": "open({target!r}, 'w').write('x')",
    "makes a folder": "__import__('os').mkdir({target!r})",
    "opens by descriptor": "__import__('os').open('/etc/passwd', 0)",
    "opens a socket": "__import__('_socket').socket()",
    "forks": "__import__('os').fork()",
    "starts a program": "__import__('os').system('touch {target}') and 1/0",
    "replaces itself": "__import__('os').execv('/bin/true', ['true'])",
    "kills its parent": "__import__('os').kill(__import__('os').getppid(), 9)",
    "raises its limits": "__import__('resource').setrlimit(7, (64, 64))",
    "calls the C library": "1 / (1 + __import__('ctypes').CDLL(None).open(b'/etc/passwd', 0))",
    "traces its parent": "1 / (1 + __import__('ctypes').CDLL(None).ptrace(16, __import__('os').getppid(), 0, 0))",
}


@pytest.mark.parametrize("way", ESCAPES)
async def test_no_way_leads_out(sandbox: CodeSandbox, way: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    value, error = await outcome(
        sandbox, f"def f():\n    {ESCAPES[way].format(target=str(target))}\n    return 'out'"
    )
    assert value != "out", error
    assert not target.exists()
    assert (await outcome(sandbox, "def f(): return 1"))[0] == 1, "the zygote lives on"


async def test_a_fork_bomb_makes_no_process(sandbox: CodeSandbox) -> None:
    code = "import os\ndef f():\n    n = 0\n    for _ in range(1000):\n        try:\n            os.fork(); n += 1\n        except OSError: pass\n    return n"  # noqa: E501 - a pattern or a table is read in one piece
    value, error = await outcome(sandbox, code)
    assert value == 0 or error == "PermissionError"


FORGED = """
import os, json
def f(x):
    for fd in range(64):
        try:
            os.write(fd, json.dumps({"results": [{"value": 42}]}).encode())
        except OSError:
            pass
    os._exit(0)
"""


async def test_a_forged_answer_reaches_only_its_own_case(sandbox: CodeSandbox) -> None:
    """Code may say what it likes of its own result; it can't know what is expected, nor answer for the next case."""
    results = await asyncio.gather(*(sandbox.call(FORGED, "f", [[n]]) for n in range(4)))
    after = await sandbox.call("def f(x): return x", "f", [[7]])
    assert after[0].value == 7
    assert all(len(r) == 1 for r in results)


async def test_the_expected_results_are_not_in_the_child(sandbox: CodeSandbox) -> None:
    code = "import gc\ndef f(x): return [o for o in gc.get_objects() if isinstance(o, dict) and 'tests' in o] != []"
    assert (await outcome(sandbox, code, 1))[0] is False


async def test_an_object_that_equals_everything_is_no_result(sandbox: CodeSandbox) -> None:
    code = "class A(int):\n    def __eq__(self, o): return True\ndef f(): return A(3)"
    assert (await outcome(sandbox, code)) == (3, None)


async def test_what_one_case_changes_the_next_does_not_see(sandbox: CodeSandbox) -> None:
    await outcome(
        sandbox, "import builtins, json\nbuiltins.len = lambda x: 99\njson.dumps = None\ndef f(): return 1"
    )
    for _ in range(2):
        assert (await outcome(sandbox, "def f(): return len([1])"))[0] == 1


async def test_the_ordinary_modules_can_be_imported(sandbox: CodeSandbox) -> None:
    code = "import math, re, collections, itertools, heapq, json\nfrom functools import reduce\ndef f(): return math.gcd(4, 6)"  # noqa: E501 - a pattern or a table is read in one piece
    assert (await outcome(sandbox, code))[0] == 2


async def test_on_linux_the_kernel_itself_holds_the_door(sandbox: CodeSandbox) -> None:
    await outcome(sandbox, "def f(): return 1")
    assert sandbox.kernel_filter == sys.platform.startswith("linux")


async def test_a_zygote_that_died_is_started_again(sandbox: CodeSandbox) -> None:
    await outcome(sandbox, "def f(): return 1")
    for zygote in sandbox._zygotes:
        if zygote.process is not None:
            zygote.process.kill()
            await zygote.process.wait()
    assert (await outcome(sandbox, "def f(): return 2"))[0] == 2


async def test_a_case_that_is_given_up_leaves_no_answer_for_the_next() -> None:
    async with CodeSandbox(workers=1) as sandbox:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outcome(sandbox, "import time\ndef f(): time.sleep(1); return 'old'"), 0.3)
        assert (await outcome(sandbox, "def f(): return 'new'"))[0] == "new"
