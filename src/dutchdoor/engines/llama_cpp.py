"""The embedded engine: llama.cpp inside this process, reached through its own server on a private socket.

Chats are answered in slots that share each pass over the weights (continuous batching). The socket lies in a
folder that only this user can enter and asks for a random key, so that nothing else reaches the model past
the gateway. Going through the socket rather than llama.cpp's callbacks keeps the event loop free and lets an
answer be stopped at any moment, also while its question is still being read.

Not covered: of a GGUF that was not made here, the log-probabilities of tokens that end in the middle of a
character (llama.cpp keeps those back and forgets them); text and token counts are right.
"""

import asyncio
import ctypes
import hashlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
import msgspec

from dutchdoor.core import EngineError, MissingExtraError, UsageError, WeightsError
from dutchdoor.engines.ending import let_go
from dutchdoor.engines.gguf_header import control_tokens
from dutchdoor.engines.interface import (
    ChatRequest,
    Chunk,
    EngineInfo,
    FinishReason,
    Message,
    TokenLogprob,
    Unreachable,
    Usage,
)
from dutchdoor.engines.json_text import check_json
from dutchdoor.engines.prompts import GgufPrompts, Prompt, Prompts
from dutchdoor.engines.schema import check_schema
from dutchdoor.engines.sse import events
from dutchdoor.engines.words import TextStream, Words
from dutchdoor.family.gguf_header import GgufHeader, read_gguf

MEMORY_SHARE = 8  # at most an eighth of the machine's memory is set aside for what the slots remember
LEAST_CONTEXT = 256  # tokens a slot
RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED draws another one each time, so no seed may become it
LONGEST_SOCKET = 103  # bytes of a path: sun_path has 104 on macOS, 108 on Linux
LOAD_MODE_SILENT = -1  # llama.cpp's verbosity


# Where a schema was not taken, llama.cpp answers freely: then this sign, which begins no JSON value, can be forced
NO_JSON = "Z"
FORCED = 1000.0  # added to its logit; a sign that the schema forbids stays at minus infinity
LOOKED_AT = 16  # tokens of an answer, one by one
MOST_HELD = 256  # schemas whose trial is remembered


LONGEST_TOKEN = 256  # characters; the longest of common vocabularies are runs of 128 spaces
BESIDE_ABOVE = 4096  # characters; what is shorter is read in less time than a thread takes to be asked

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AnyPrompts(Protocol[T_co]):
    """What makes a prompt of a chat."""

    def prompt(self, messages: Sequence[Message]) -> T_co: ...


class ContextExceeded(EngineError, UsageError):  # noqa: N818 — as its kin
    """A question that is longer than the model can read: no other try will help."""


class LlamaCppEngine:
    """One GGUF, loaded. Made by `open_llama_cpp`; used from the event loop it was opened in."""

    def __init__(
        self,
        server: Any,
        place: Path,
        key: str,
        info: EngineInfo,
        prompts: Prompts,
        connections: int,
        slot: int,
    ) -> None:
        self.info = info
        self._server, self._place, self._prompts, self._slot = server, place, prompts, slot
        self._held: dict[bytes, bool] = {}
        self._session = aiohttp.ClientSession(
            connector=_connector(place, connections),
            headers={"Authorization": f"Bearer {key}"},
            timeout=aiohttp.ClientTimeout(total=None),
            base_url="http://engine",
        )

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """The answer token by token. Raises ContextExceeded, UsageError for a schema it cannot take,
        EngineError.
        """
        if request.json_schema is not None:
            check_schema(request.json_schema)
        prompt = await read_prompt(self._prompts, request.messages, self._slot)
        body = completion_body(request, prompt)
        if request.json_schema is not None and not await self._holds(request.json_schema, body):
            raise UsageError(
                "the JSON schema cannot be held to: llama.cpp does not take it, or nothing can satisfy it",
                hint="say it in simpler keywords; of patterns, in plain signs, classes, groups and counts",
            )
        out = TextStream(
            (*request.stop, *self._prompts.stop), strip_first_space=self._prompts.strips_first_space
        )
        said: list[str] = []
        response = await self._post("/completion", body)
        try:
            async for event in events(response.content):
                chunk = self._chunk(msgspec.json.decode(event), out, request.logprobs)
                said.append(chunk.text)
                # early while it costs nothing, and at the end
                short = len(said) <= LOOKED_AT
                if request.json_schema is not None and not out.stopped and (short or chunk.finish_reason):
                    check_json("".join(said), whole=chunk.finish_reason == "stop")
                yield chunk
                if chunk.finish_reason is not None:
                    return
        except aiohttp.ClientError as error:
            raise Unreachable(f"{self.info.model}: the engine broke off: {error}") from error
        finally:
            response.close()  # an unfinished answer: llama.cpp sees the line go dead and frees the slot

    async def _holds(self, schema: dict[str, Any], body: dict[str, Any]) -> bool:
        """Whether llama.cpp took a schema, which it does not say: a sign that begins no JSON is forced on it.

        The prompt is the one that is asked next, so that reading it is not done twice.
        """
        key = hashlib.sha256(msgspec.json.encode(schema)).digest()
        if key not in self._held:
            forced = await self._tokens_of(NO_JSON)
            bias = [[number, FORCED] for number in forced]
            trial = {**body, "stream": False, "n_predict": 1, "temperature": 0.0, "logit_bias": bias}
            said = await self._json("/completion", trial)
            if len(self._held) >= MOST_HELD:
                self._held.pop(next(iter(self._held)))
            self._held[key] = not set(said.get("tokens") or forced) & set(forced)
        return self._held[key]

    async def _tokens_of(self, sign: str) -> list[int]:
        """The tokens whose text holds a sign; the space that some tokenizers put before it is none of them."""
        asked = {"content": sign, "add_special": False, "with_pieces": True}
        rows = (await self._json("/tokenize", asked)).get("tokens") or ()
        found = [int(row["id"]) for row in rows if sign in str(row.get("piece"))]
        if not found:  # nothing to force: what cannot be tried is not believed
            raise UsageError("this model's tokens do not let a JSON schema be tried, so none is taken")
        return found

    async def _json(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self._post(path, body)
        try:
            said = msgspec.json.decode(await response.read(), type=dict[str, Any])
        except aiohttp.ClientError as error:
            raise Unreachable(f"{self.info.model}: the engine broke off: {error}") from error
        finally:
            response.close()
        if "error" in said:
            raise _error(said)
        return said

    def _chunk(self, data: dict[str, Any], out: TextStream, logprobs: int | None) -> Chunk:
        if "error" in data:
            raise _error(data)
        words, last = self._prompts.words, bool(data.get("stop"))
        if words is None:
            text = out.feed_text(data.get("content", ""), last=last)
        else:
            text = out.feed(b"".join(map(words.bytes_of, data.get("tokens") or ())), last=last)
        rows = data.get("completion_probabilities") or () if logprobs is not None else ()
        finish: FinishReason | None = _finish(data) if last else None
        return Chunk(
            text=text,
            logprobs=tuple(_logprob(row, words, logprobs or 0) for row in rows),
            finish_reason="stop" if out.stopped else finish,
            usage=_usage(data),
        )

    async def _post(self, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        if self._session.closed:
            raise EngineError(f"{self.info.model} is closed")
        try:
            response = await self._session.post(path, data=msgspec.json.encode(body))
        except aiohttp.ClientError as error:
            raise Unreachable(f"{self.info.model}: the engine does not answer: {error}") from error
        if response.status != 200:
            try:
                raise _error(msgspec.json.decode(await response.read()))
            except msgspec.DecodeError as error:
                raise EngineError(f"{self.info.model}: llama.cpp answers {response.status}") from error
            finally:
                response.close()
        return response

    async def close(self) -> None:
        """Stops what runs, frees the memory. Closing twice is fine."""
        server, self._server = self._server, None
        await self._session.close()
        if server is not None:
            holder = [server]
            del server
            await let_go(holder)
            shutil.rmtree(self._place.parent, ignore_errors=True)


async def read_prompt(prompts: AnyPrompts[T], messages: Sequence[Message], context: int) -> T:
    """The prompt of a chat, made beside the event loop where that takes long.

    `context`: tokens. Raises ContextExceeded, without reading it, for a chat that no tokenizer makes fit.
    """
    length = sum(len(message.content) for message in messages)
    if length > context * LONGEST_TOKEN:
        raise ContextExceeded(
            f"the chat is {length} characters long and the model reads at most {context} tokens",
            hint="shorten it",
        )
    if length <= BESIDE_ABOVE:
        return prompts.prompt(messages)
    return await asyncio.to_thread(prompts.prompt, messages)


def _connector(place: Path, connections: int) -> aiohttp.BaseConnector:
    return aiohttp.UnixConnector(
        path=str(place), limit=connections, force_close=True
    )  # it keeps no line open


async def open_llama_cpp(
    path: Path,
    *,
    threads: int,
    parallel: int,
    model: str,
    prompts: Prompts | None = None,
    exact: bool = False,
    because: str | None = None,
) -> LlamaCppEngine:
    """Load a GGUF into `parallel` slots.

    `prompts` is null for a GGUF of others: its own template and llama.cpp's tokenizer are used then. `exact`
    keeps what the slots remember in f32 (for f32 weights). Raises EngineError where llama.cpp refuses the
    file.
    """
    header = await asyncio.to_thread(read_gguf, path)
    context, slot = _context(header, parallel, exact)
    folder = _socket_folder()
    place, key = folder / "s.sock", secrets.token_hex(16)
    connections = 2 * parallel  # each slot has its next question waiting
    try:
        # no thread: llama.cpp holds the interpreter while it loads either way
        server = _load(path, place, key, threads, parallel, context, connections, exact)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if prompts is None:
        bos, eos = await _named_tokens(place, key)
        control = await asyncio.to_thread(control_tokens, path)
        prompts = GgufPrompts(header, control, bos, eos)
    info = EngineInfo(
        name="llama.cpp",
        version=version(),
        model=model,
        context_length=slot,
        because=because,
        plain_format=prompts.is_plain,
    )
    return LlamaCppEngine(server, place, key, info, prompts, connections, slot)


def _socket_folder() -> Path:
    """A new folder, mode 0700, whose path is short enough for a socket in it, whatever TMPDIR says."""
    folder = Path(tempfile.mkdtemp(prefix="dutchdoor-engine-"))
    if len(os.fsencode(folder / "s.sock")) <= LONGEST_SOCKET:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="dutchdoor-engine-", dir="/tmp"))


def version() -> str:
    """The version of xllamacpp, which names the llama.cpp build inside."""
    from importlib.metadata import version as installed

    return f"xllamacpp {installed('xllamacpp')}"


async def _named_tokens(place: Path, key: str) -> tuple[str, str]:
    async with (
        aiohttp.ClientSession(
            connector=_connector(place, 1), headers={"Authorization": f"Bearer {key}"}
        ) as session,
        session.get("http://engine/props") as response,
    ):
        props = await response.json()
    return str(props.get("bos_token") or ""), str(props.get("eos_token") or "")


def _context(header: GgufHeader, parallel: int, exact: bool) -> tuple[int, int]:
    """(tokens in all slots together, tokens a slot): the model's whole context where memory allows it."""
    architecture = header.text("general.architecture")

    def number(key: str, default: int) -> int:
        return header.number(f"{architecture}.{key}") or default

    heads = number("attention.head_count", 1)
    width = number("embedding_length", 64) // heads
    channels = number("attention.key_length", width) + number("attention.value_length", width)
    kv_heads = number(
        "attention.head_count_kv", heads
    )  # where it differs by layer it is an array: take the most
    bytes_per_token = number("block_count", 1) * kv_heads * channels * (4 if exact else 2)
    budget = _memory() // MEMORY_SHARE
    wanted = number("context_length", 2048)
    slot = max(LEAST_CONTEXT, min(wanted, budget // (bytes_per_token * parallel)))
    slot = min(slot, wanted)
    padded = -(-slot // 256) * 256  # llama.cpp rounds up to this
    return padded * parallel, slot


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def _load(
    path: Path,
    place: Path,
    key: str,
    threads: int,
    parallel: int,
    context: int,
    connections: int,
    exact: bool,
) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtraError("the embedded engine", extra="local") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = [str(place)]
    params.api_keys = [key]
    params.n_threads_http = connections + 2
    params.ui = False
    params.endpoint_slots = False
    params.n_parallel = parallel
    params.n_ctx = context
    params.kv_unified = False
    params.n_gpu_layers = 0
    params.warmup = False
    params.fit_params = False
    params.cache_ram_mib = 0
    params.n_ctx_checkpoints = 0
    params.verbosity = LOAD_MODE_SILENT
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0  # waiting threads sleep: spinning ones starve whatever else runs here
    with _own_signals():
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise WeightsError(
                f"llama.cpp cannot load {path}",
                hint="is the file whole, and of an architecture that it knows?",
            ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """llama.cpp's server takes SIGINT and SIGTERM for itself, process-wide; Ctrl-C must stay ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept: dict[int, Any] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        kept[number] = ctypes.create_string_buffer(256)  # larger than any platform's struct sigaction
        libc.sigaction(number, None, kept[number])
    try:
        yield
    finally:
        for number, action in kept.items():
            libc.sigaction(number, action, None)


def completion_body(request: ChatRequest, prompt: Prompt) -> dict[str, Any]:
    """What llama.cpp's /completion is asked. Every sampler that the request does not name is off; stop
    strings are ours.
    """
    body: dict[str, Any] = {
        "prompt": prompt,
        "stream": True,
        "return_tokens": True,
        "n_predict": request.max_tokens,
        "temperature": request.temperature,
        "samplers": ["temperature", "top_p"],  # in the order of transformers
        "top_p": request.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "cache_prompt": True,
    }
    if request.seed is not None:
        body["seed"] = request.seed % RANDOM_SEED
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)
        body["top_wanted"] = request.logprobs
    if request.json_schema is not None:
        body["json_schema"] = request.json_schema
    return body


def _logprob(row: dict[str, Any], words: Words | None, k: int) -> TokenLogprob:
    top = [(_shown(other, words), float(other["logprob"])) for other in row.get("top_logprobs") or ()]
    return TokenLogprob(
        token=_shown(row, words), token_id=int(row["id"]), logprob=float(row["logprob"]), top=tuple(top[:k])
    )


def _shown(row: dict[str, Any], words: Words | None) -> str:
    if words is not None:
        return words.shown(int(row["id"]))
    return bytes(row.get("bytes") or ()).decode("utf-8", errors="replace") or str(row.get("token", ""))


def _finish(data: dict[str, Any]) -> FinishReason:
    return "length" if data.get("stop_type") == "limit" else "stop"


def _usage(data: dict[str, Any]) -> Usage:
    return Usage(
        input_tokens=int(data.get("tokens_evaluated", 0)), output_tokens=int(data.get("tokens_predicted", 0))
    )


def _error(data: dict[str, Any]) -> EngineError | UsageError:
    error = data.get("error") or {}
    message = str(error.get("message", "unknown error"))
    if error.get("type") == "exceed_context_size_error":
        have, may = error.get("n_prompt_tokens"), error.get("n_ctx")
        return ContextExceeded(
            f"the chat is {have} tokens long and the model reads at most {may}",
            hint="shorten it, or ask for fewer parallel streams, which share the memory",
        )
    if error.get("code") == 400:
        return UsageError(f"llama.cpp refuses the request: {message}")
    return EngineError(f"llama.cpp failed: {message}")
