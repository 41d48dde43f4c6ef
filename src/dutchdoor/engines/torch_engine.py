"""The reference engine: transformers and torch, for what the fast engine cannot take.

Requests that arrive while others run join them at the next step: one worker thread computes one token for all
of them at once (left-padded, with a shared cache), and each leaves when it is done. Slower than llama.cpp by
a factor of three to five, and right by definition.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import EngineError, MissingExtraError, UsageError, WeightsError
from dutchdoor.engines.chat_format import ChatFormat, read_json, read_special_tokens, read_template
from dutchdoor.engines.gguf_convert import end_tokens
from dutchdoor.engines.interface import (
    ChatRequest,
    Chunk,
    EngineInfo,
    FinishReason,
    Message,
    TokenLogprob,
    Usage,
)
from dutchdoor.engines.llama_cpp import ContextExceeded, read_prompt
from dutchdoor.engines.prompts import FolderPrompts
from dutchdoor.engines.words import TextStream
from dutchdoor.family.weights import describe

CONTEXT_UNKNOWN = 2048  # tokens, where config.json does not say


class Job:
    """One answer on its way; touched by the worker thread alone after it is queued, except `cancelled`."""

    def __init__(
        self, request: ChatRequest, prompt: list[int], room: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.request, self.prompt = request, prompt
        self.most = min(request.max_tokens, room)
        self.loop = loop
        self.out: asyncio.Queue[Step | BaseException] = asyncio.Queue()
        self.cancelled = threading.Event()
        self.tokens: list[int] = []
        self.generator: Any = None

    def tell(self, what: "Step | BaseException") -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed under us: nobody listens any more
            self.loop.call_soon_threadsafe(self.out.put_nowait, what)


class Step(msgspec.Struct, frozen=True):
    """One token of an answer, or its end."""

    token: int | None
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    finish: FinishReason | None = None


class TransformersEngine:
    """One Hugging Face folder, loaded. Made by `open_transformers`."""

    def __init__(self, worker: "Worker", prompts: Any, info: EngineInfo, context: int) -> None:
        self.info = info
        self._worker, self._prompts, self._context = worker, prompts, context

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """The answer token by token. Raises ContextExceeded; UsageError for a JSON schema, which it cannot
        hold to.
        """
        if request.json_schema is not None:
            raise UsageError(
                "the transformers engine cannot do 'json_schema'", hint="leave it out, or use a GGUF"
            )
        prompt: list[int] = await read_prompt(self._prompts, request.messages, self._context)
        room = self._context - len(prompt)
        if room < 1:
            raise ContextExceeded(
                f"the chat is {len(prompt)} tokens long and the model reads at most {self._context}",
                hint="shorten it",
            )
        job = Job(request, prompt, room, asyncio.get_running_loop())
        words = self._prompts.words
        out = TextStream(
            (*request.stop, *self._prompts.stop), strip_first_space=self._prompts.strips_first_space
        )
        self._worker.submit(job)
        count = 0
        try:
            while True:
                step = await job.out.get()
                if isinstance(step, BaseException):
                    raise EngineError(f"{self.info.model}: transformers failed: {step}") from step
                count += step.token is not None
                finish = step.finish
                text = out.feed(
                    b"" if step.token is None else words.bytes_of(step.token), last=finish is not None
                )
                if out.stopped:
                    finish = "stop"
                row: tuple[TokenLogprob, ...] = ()
                if request.logprobs is not None and step.token is not None and step.finish != "stop":
                    top = tuple((words.shown(token), value) for token, value in step.top)
                    row = (
                        TokenLogprob(
                            token=words.shown(step.token), token_id=step.token, logprob=step.logprob, top=top
                        ),
                    )
                usage = Usage(input_tokens=len(prompt), output_tokens=count)
                yield Chunk(text=text, logprobs=row, finish_reason=finish, usage=usage)
                if finish is not None:
                    return
        finally:
            job.cancelled.set()

    async def close(self) -> None:
        """Ends the worker thread; answers on their way end with an error. Closing twice is fine."""
        await asyncio.to_thread(self._worker.stop)


async def open_transformers(
    folder: Path, *, threads: int, parallel: int, because: str | None = None
) -> TransformersEngine:
    """Load a Hugging Face folder with transformers, in f32 on the CPU. Raises MissingExtraError,
    WeightsError.
    """
    describe(folder)  # refuses pickles and truncated files before torch sees them
    model = await asyncio.to_thread(_load, folder, threads)
    prompts = await asyncio.to_thread(_prompts, folder)
    config = read_json(folder / "config.json")
    text_config = config.get("text_config") or config
    context = int(
        text_config.get("max_position_embeddings") or text_config.get("n_positions") or CONTEXT_UNKNOWN
    )
    info = EngineInfo(
        name="transformers",
        version=version(),
        model=folder.name,
        context_length=context,
        because=because,
        plain_format=prompts.is_plain,
    )
    worker = Worker(model, end_tokens(folder), parallel)
    worker.start()
    return TransformersEngine(worker, prompts, info, context)


def version() -> str:
    """The versions of transformers and torch."""
    from importlib.metadata import version as installed

    return f"transformers {installed('transformers')}, torch {installed('torch')}"


def _load(folder: Path, threads: int) -> Any:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("this model needs transformers, and transformers", extra="vet") from error
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"transformers cannot load {folder}: {_first_line(error)}", hint="is the folder whole?"
        ) from error
    return model.eval()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _prompts(folder: Path) -> Any:
    """Through tokenizer.json where there is one, else through transformers' own tokenizer."""
    if (folder / "tokenizer.json").is_file():
        prompts = FolderPrompts(folder)
        if prompts.knows_its_words:
            return prompts
    return AutoPrompts(folder)


class AutoPrompts:
    """Prompts and text through transformers' tokenizer, for folders without a readable tokenizer.json.

    Text is put together from all tokens so far, which is right for any tokenizer and slower.
    """

    strips_first_space = False

    def __init__(self, folder: Path) -> None:
        import transformers

        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise WeightsError(
                f"transformers cannot load the tokenizer of {folder}: {_first_line(error)}"
            ) from error
        control = [str(text) for text in self._tokenizer.all_special_tokens]
        self._format = ChatFormat(read_template(folder), read_special_tokens(folder), control)
        self.words = AutoWords(self._tokenizer)
        self._one_at_a_time = threading.Lock()  # transformers' tokenizers keep settings between calls

    @property
    def stop(self) -> tuple[str, ...]:
        return self._format.stop

    @property
    def is_plain(self) -> bool:
        return self._format.is_plain

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        numbers: list[int] = []
        for piece in self._format.render(messages):
            middle = len(piece.text) // 2 if piece.literal and len(piece.text) > 1 else 0
            for text in (piece.text[:middle], piece.text[middle:]) if middle else (piece.text,):
                with self._one_at_a_time:
                    numbers += self._tokenizer.encode(text, add_special_tokens=False)
        return numbers


class AutoWords:
    """The bytes of single tokens as transformers shows them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._anchor = tokenizer.encode("a", add_special_tokens=False)
        self._before = tokenizer.decode(self._anchor)

    def bytes_of(self, number: int) -> bytes:
        """A token's text behind another one, so that a leading space is kept."""
        if number in self._special:
            return b""
        text = str(self._tokenizer.decode([*self._anchor, number]))
        return text.removeprefix(self._before).encode()

    def shown(self, number: int) -> str:
        return self.bytes_of(number).decode("utf-8", errors="replace")


class Worker:
    """The thread that computes: takes up to `parallel` jobs, one token for each at every step."""

    def __init__(self, model: Any, ends: Sequence[int], parallel: int) -> None:
        self._model, self._ends, self._parallel = model, frozenset(ends), parallel
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dutchdoor-transformers", daemon=True)
        self._stopped = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises EngineError once stopped."""
        if self._stopped.is_set():
            raise EngineError("the engine is closed")
        self._waiting.put(job)

    def stop(self) -> None:
        self._stopped.set()
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        import torch

        with torch.inference_mode():
            while not self._stopped.is_set():
                first = self._waiting.get()
                if first is None:
                    break
                batch = [first]
                try:
                    self._generate(batch)
                except Exception as error:  # noqa: BLE001 — whatever torch raises goes to those who wait
                    for job in batch:
                        job.tell(error)
        while not self._waiting.empty():
            left = self._waiting.get()
            if left is not None:
                left.tell(EngineError("the engine was closed"))

    def _generate(self, batch: list[Job]) -> None:
        """Work on a batch until it is empty, letting others in between two steps. `batch` always holds who
        waits.
        """
        cache: Any = None
        mask: Any = None
        for job in batch:
            self._begin(job)
        while batch:
            if self._stopped.is_set():
                raise EngineError("the engine was closed")
            joined = self._join(batch)
            if cache is None or joined:
                cache, mask, logits = self._read(batch)
            else:
                cache, mask, logits = self._step(batch, cache, mask)
            keep = [index for index, job in enumerate(batch) if self._choose(job, logits[index])]
            if len(keep) < len(batch):
                if keep:
                    index = self._index(keep)
                    cache.reorder_cache(index)
                    mask = mask[index]
                batch[:] = [batch[i] for i in keep]

    def _join(self, batch: list[Job]) -> bool:
        """Take in those who wait. Their joining means reading all chats once more, in one pass."""
        joined = False
        while len(batch) < self._parallel:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                break
            self._begin(job)
            batch.append(job)
            joined = True
        return joined

    def _begin(self, job: Job) -> None:
        import torch

        if job.request.temperature > 0:
            job.generator = torch.Generator()
            if job.request.seed is None:
                job.generator.seed()
            else:
                job.generator.manual_seed(job.request.seed & 0xFFFFFFFFFFFFFFFF)

    def _index(self, rows: Sequence[int]) -> Any:
        import torch

        return torch.tensor(rows, dtype=torch.long)

    def _read(self, batch: Sequence[Job]) -> tuple[Any, Any, Any]:
        """All chats so far in one pass, padded on the left."""
        import torch
        from transformers import DynamicCache

        chats = [job.prompt + job.tokens for job in batch]
        longest = max(map(len, chats))
        ids = torch.zeros((len(chats), longest), dtype=torch.long)
        mask = torch.zeros((len(chats), longest), dtype=torch.long)
        for row, chat in enumerate(chats):
            ids[row, longest - len(chat) :] = torch.tensor(chat)
            mask[row, longest - len(chat) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = (
            DynamicCache()
        )  # grows with the text and can be reordered; sliding windows are masked, not dropped
        return self._forward(ids, mask, positions, cache)

    def _step(self, batch: Sequence[Job], cache: Any, mask: Any) -> tuple[Any, Any, Any]:
        import torch

        ids = torch.tensor([[job.tokens[-1]] for job in batch], dtype=torch.long)
        mask = torch.cat((mask, mask.new_ones((len(batch), 1))), dim=1)
        return self._forward(ids, mask, mask.sum(-1, keepdim=True) - 1, cache)

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any) -> tuple[Any, Any, Any]:
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.past_key_values, mask, out.logits[:, -1].float()

    def _choose(self, job: Job, logits: Any) -> bool:
        """Pick the next token and tell it; false when this job is done."""
        if job.cancelled.is_set():
            return False
        wanted = job.request.logprobs
        logprobs = logits.log_softmax(-1) if wanted is not None else None
        token = pick(logits, job.request, job.generator)
        job.tokens.append(token)
        finish: FinishReason | None = None
        if token in self._ends:
            finish = "stop"
        elif len(job.tokens) >= job.most:
            finish = "length"
        value = 0.0
        top: tuple[tuple[int, float], ...] = ()
        if logprobs is not None:
            value = float(logprobs[token])
            if wanted:
                best = logprobs.topk(min(wanted, logprobs.shape[-1]))
                top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        job.tell(Step(token, value, top, finish))
        return finish is None


def pick(logits: Any, request: ChatRequest, generator: Any) -> int:
    """The next token: the likeliest at temperature 0, else drawn, with `top_p` cutting the tail (Holtzman et
    al. 2020).
    """
    import torch

    if request.temperature <= 0:
        return int(logits.argmax())
    probabilities = (logits / request.temperature).softmax(-1)
    if request.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= request.top_p  # what precedes a token already holds top_p
        ordered[outside] = 0
        probabilities = torch.zeros_like(probabilities).scatter_(0, order, ordered)
    return int(torch.multinomial(probabilities, 1, generator=generator))
