"""Guards: nothing that a pattern matches slips out, however the answer is cut."""

import re
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
from aiohttp import web
from hypothesis import given

from dutchdoor.core import DocumentError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.guard import Guard, Holder, Side, guarded, load_guard, pattern
from dutchdoor.engines.interface import ChatRequest, Chunk, EngineInfo, Message, Unreachable, Usage
from tests.unit.engines.conftest import question


class Scripted:
    """Says given pieces, and remembers what it was asked."""

    info = EngineInfo(name="http", version="0", model="scripted", context_length=None)

    def __init__(self, *said: str) -> None:
        self.said, self.asked, self.told = said, [], 0

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        self.asked.append(request)
        for count, text in enumerate(self.said, 1):
            self.told = count
            yield Chunk(text=text, usage=Usage(input_tokens=3, output_tokens=count))
        yield Chunk(finish_reason="stop", usage=Usage(input_tokens=3, output_tokens=len(self.said)))

    async def close(self) -> None: ...


def guard(input: Sequence[str] = (), output: Sequence[str] = ()) -> Guard:
    return Guard(Side(tuple(map(pattern, input)), ()), Side(tuple(map(pattern, output)), ()))


async def test_a_blocked_question_never_reaches_the_model() -> None:
    inner = Scripted("hello")
    answer = await ask(guarded(inner, None, guard(input=["(?i)brew"])), question("how to BREW it?"))
    assert (answer.text, answer.finish_reason) == ("", "content_filter")
    assert inner.asked == []
    assert (await ask(guarded(inner, None, guard(input=["(?i)brew"])), question("hi"))).text == "hello"


async def test_a_question_cut_over_two_messages_is_seen() -> None:
    inner = Scripted("hello")
    request = ChatRequest(
        messages=(Message(role="user", content="how to"), Message(role="user", content="brew")), max_tokens=9
    )
    assert (
        await ask(guarded(inner, None, guard(input=[r"to\s+brew"])), request)
    ).finish_reason == "content_filter"


async def test_a_match_over_several_pieces_is_blocked_and_stops_the_model() -> None:
    inner = Scripted("mix ", "zor", "ium with", " water", " and", " more")
    answer = await ask(guarded(inner, None, guard(output=["zorium"])), question())
    assert answer.finish_reason == "content_filter"
    assert "mix ".startswith(answer.text)  # what was held back when it was blocked stays back
    assert inner.told < 6
    assert answer.usage is not None and answer.usage.output_tokens == inner.told


async def test_a_clean_answer_passes_unchanged() -> None:
    answer = await ask(
        guarded(Scripted("a zor", "n is no", " zori"), None, guard(output=["zorium"])), question()
    )
    assert (answer.text, answer.finish_reason) == ("a zorn is no zori", "stop")


async def test_the_end_of_a_word_is_waited_for() -> None:
    harmless = guarded(Scripted("a bomb", "astic tale"), None, guard(output=[r"\bbomb\b"]))
    assert (await ask(harmless, question())).text == "a bombastic tale"
    at_the_end = guarded(Scripted("a ", "bomb"), None, guard(output=[r"\bbomb\b"]))
    assert (await ask(at_the_end, question())).finish_reason == "content_filter"


@given(
    st.text("abx ", max_size=40),
    st.sampled_from(["ab", "a.?b", "a+b", "(ab|x) a", "x(?=b)", "a[^x]{1,3}b", "^b", "b$", r"\bx\b"]),
    st.lists(st.integers(min_value=0, max_value=40)),
)
def test_nothing_of_a_match_is_ever_let_out(text: str, regex: str, cuts: list[int]) -> None:
    hold = Holder(guard(output=[regex]).output)
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    out = ""
    for start, end in pairwise(at):
        out += hold.feed(text[start:end], last=False)
        if hold.blocked:
            break
    if not hold.blocked:
        out += hold.feed("", last=True)
    found = re.search(regex, text)
    if found is None:
        assert (out, hold.blocked) == (text, False)
    else:
        assert hold.blocked
        assert text.startswith(out)
        assert len(out) <= found.start()


def test_a_pattern_without_bound_holds_the_whole_answer() -> None:
    assert guard(output=["a.*b"]).output.held_characters is None
    assert guard(output=["a(?=b)"]).output.held_characters is None
    assert guard(output=["(?<=a)b", "abc"]).output.held_characters == 2


async def test_the_system_prompt_comes_first_and_the_callers_follows() -> None:
    inner = Scripted("x")
    engine = guarded(inner, "Be kind.\n", None)
    await ask(engine, question("hi"))
    mine = Message(role="system", content="Be brief.")
    await ask(engine, ChatRequest(messages=(mine, Message(role="user", content="hi")), max_tokens=3))
    assert [request.messages[0].content for request in inner.asked] == ["Be kind.", "Be kind.\n\nBe brief."]
    assert guarded(inner, None, None) is inner


def write(folder: Path, text: str) -> Path:
    path = folder / "guard.yaml"
    path.write_text("kind: dutchdoor/guard@1\n" + text)
    return path


def test_a_guard_is_read_from_its_file(tmp_path: Path) -> None:
    read = load_guard(
        write(tmp_path, "input: [{regex: '(?i)brew'}]\noutput: [{regex: zorium, because: a recipe}]\n")
    )
    assert read.input.patterns[0].find("Brew") == (0, 4)
    assert read.output.held_characters == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("output: [{regex: '('}]", "output[0].regex"),
        ("output: [{regex: 'a*'}]", "empty text"),
        ("input: [{because: x}]", "exactly one"),
        ("input: [{regex: a, threshold: 0.5}]", "threshold"),
        ("input: [{classifier: {url: 'http://x'}}]", "threshold"),
        ("inputs: []", "inputs"),
    ],
)
def test_a_broken_guard_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=re.escape(said)):
        load_guard(write(tmp_path, text + "\n"))


async def test_a_classifier_blocks_at_its_threshold_and_its_silence_is_no_pass(tmp_path: Path) -> None:
    async def score(request: web.Request) -> web.Response:
        text = (await request.json())["input"]
        return web.json_response({"results": [{"category_scores": {"harm": 0.9 if "bad" in text else 0.1}}]})

    app = web.Application()
    app.router.add_post("/v1/moderations", score)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    rows = f"[{{classifier: {{url: '{url}'}}, threshold: 0.5}}]"
    read = load_guard(write(tmp_path, f"input: {rows}\noutput: {rows}\n"))
    assert (await ask(guarded(Scripted("fine"), None, read), question("hi"))).text == "fine"
    assert (
        await ask(guarded(Scripted("fine"), None, read), question("bad"))
    ).finish_reason == "content_filter"
    assert (
        await ask(guarded(Scripted("so", " bad"), None, read), question("hi"))
    ).finish_reason == "content_filter"
    await runner.cleanup()
    with pytest.raises(Unreachable):
        await ask(guarded(Scripted("fine"), None, read), question("hi"))
