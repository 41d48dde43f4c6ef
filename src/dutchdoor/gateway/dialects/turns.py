"""The messages of a chat completion, put together from what other dialects hold in blocks or items.

Chat completions take images from users only, and want the results of calls right behind the calls: images and
files in results follow as a message of the user, which names the call.
"""

from typing import Any

Parts = list[dict[str, Any]]


class Turns:
    """Grows message by message; `said` and `attachments` as in `Asked`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.said = 0
        self.attachments = 0
        self._shown: Parts = []  # of results, until the user's turn

    def system(self, texts: list[str]) -> None:
        """Of a system prompt with several blocks each stays a part."""
        self._show()
        parts = [self.text(text) for text in texts]
        self.messages.append({"role": "system", "content": _content(parts)})

    def user(self, parts: Parts, *, apart: bool = False) -> None:
        """Text, images, files. `apart`: not in the message before."""
        shown, self._shown = self._shown, []
        self._user(shown + parts, apart)

    def say(self, text: str, *, apart: bool = False) -> None:
        """The assistant's text. `apart`: not in a message that has content already."""
        self._assistant(apart)["content"].append(self.text(text))

    def think(self, text: str, *, apart: bool = False) -> None:
        """The assistant's reasoning, which chat completions take as `reasoning_content`."""
        message = self._assistant(apart)
        before = message.get("reasoning_content")
        message["reasoning_content"] = text if before is None else f"{before}\n{text}"
        self.said += len(text.encode())

    def call(self, id: str, name: str, arguments: str) -> None:
        """A call of a function; `arguments` is JSON text."""
        calls = self._assistant(False).setdefault("tool_calls", [])
        calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        self.said += len(name) + len(arguments.encode())

    def result(self, id: str, parts: Parts) -> None:
        """What a call came to. Texts go into its own message, everything else into the user's next one."""
        texts = [part for part in parts if part["type"] == "text"]
        self.messages.append({"role": "tool", "tool_call_id": id, "content": _content(texts)})
        if len(texts) < len(parts):
            self._shown.append(self.text(f"From the result of {id}:"))
            self._shown += [part for part in parts if part["type"] != "text"]

    def done(self) -> list[dict[str, Any]]:
        """All messages, as they are sent."""
        self._show()
        for message in self.messages:
            if isinstance(message["content"], list):
                message["content"] = _content(message["content"]) if message["content"] else None
            if message["content"] is None and "tool_calls" not in message:
                message["content"] = ""
        return self.messages

    def text(self, text: str) -> dict[str, Any]:
        """A part of text, counted."""
        self.said += len(text.encode())
        return {"type": "text", "text": text}

    def image(self, url: str, detail: str | None = None) -> dict[str, Any]:
        """A part that shows an image; `url` may be a data URL."""
        self.attachments += 1
        shown = {"url": url} if detail is None else {"url": url, "detail": detail}
        return {"type": "image_url", "image_url": shown}

    def file(self, **file: str) -> dict[str, Any]:
        """A part that holds a file: `file_data` as a data URL with `filename`, or `file_id`."""
        self.attachments += 1
        return {"type": "file", "file": file}

    def _show(self) -> None:
        if self._shown:
            shown, self._shown = self._shown, []
            self._user(shown, True)

    def _user(self, parts: Parts, apart: bool) -> None:
        if not apart and self.messages and self.messages[-1]["role"] == "user":
            self.messages[-1]["content"] += parts
        else:
            self.messages.append({"role": "user", "content": parts})

    def _assistant(self, apart: bool) -> dict[str, Any]:
        self._show()
        last = self.messages[-1] if self.messages else None
        if (
            last is None
            or last["role"] != "assistant"
            # what stands beside a call stays with it: nothing may come between a call and its result
            or (apart and last["content"] and "tool_calls" not in last)
        ):
            last = {"role": "assistant", "content": []}
            self.messages.append(last)
        return last


def _content(parts: Parts) -> str | Parts:
    """One text as a string, which every server takes."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
