"""Measures openvino-genai in an environment of its own; `python openvino_row.py MODEL.gguf STREAMS TOKENS` prints JSON.

Not called openvino.py: a script's own folder comes first, and it would be imported in place of the package.
"""

import json
import sys
import time

import openvino_genai


def main(path: str, streams: int, tokens: int) -> None:
    started = time.monotonic()
    pipe = openvino_genai.LLMPipeline(path, "CPU", ATTENTION_BACKEND="PA") if path else None
    loaded = time.monotonic() - started
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.min_new_tokens, config.ignore_eos, config.do_sample = (
        tokens,
        tokens,
        True,
        False,
    )
    prompts = [f"Tell me a story about the number {number}." for number in range(streams)]
    pipe.generate(prompts[:1], config)
    started = time.monotonic()
    pipe.generate(prompts, config)
    seconds = time.monotonic() - started
    rate = streams * tokens / seconds
    print(json.dumps({"load_s": loaded, "tokens_per_s": rate, "version": openvino_genai.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
