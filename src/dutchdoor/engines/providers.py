"""Where models are served in the OpenAI dialect: one row each, data only.

A row says what a target can do, so that a request is refused before it is sent instead of a parameter being
dropped silently. What a column does not know is false; what `lacks` names is documented as missing. The rows of groq,
deepseek, mistral and ollama were read against the documentation of their APIs in November 2026, the others state what
is commonly documented; none was checked against the live service, and a server of one's own may do more or less than
its row says: `dutchdoor targets probe` asks it.
"""

import msgspec


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of target. `base_url` ends where `/chat/completions` begins; null: the user's own host."""

    name: str
    base_url: str | None
    key_env: str | None  # the environment variable that holds the key; null: none is needed
    logprobs: bool = False
    seed: bool = False
    json_schema: bool = False
    stream_usage: bool = True  # understands stream_options.include_usage
    cap_field: str = "max_tokens"  # how the output cap is called
    has: frozenset[str] = frozenset()  # further features: tools, images, n, …
    lacks: tuple[str, ...] = ()  # features and parameters that its documentation says it has not
    adapter: bool = False  # its own API is no OpenAI dialect: it is reached through an adapter
    marker: str | None = None  # path, beside `/v1`, that only this kind of server answers


PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        Provider(
            name="dutchdoor",
            base_url=None,
            key_env="DUTCHDOOR_API_KEY",
            logprobs=True,
            seed=True,
            json_schema=True,
        ),
        Provider(
            name="vllm",
            base_url="http://127.0.0.1:8000/v1",
            key_env=None,
            logprobs=True,
            seed=True,
            json_schema=True,
            marker="/version",
        ),
        Provider(
            name="sglang",
            base_url="http://127.0.0.1:30000/v1",
            key_env=None,
            logprobs=True,
            seed=True,
            json_schema=True,
            marker="/get_model_info",
        ),
        Provider(
            name="llama-server",
            base_url="http://127.0.0.1:8080/v1",
            key_env=None,
            logprobs=True,
            seed=True,
            json_schema=True,
            marker="/props",
        ),
        Provider(
            name="ollama",
            base_url="http://127.0.0.1:11434/v1",
            key_env=None,
            logprobs=True,
            seed=True,
            json_schema=True,
            has=frozenset({"tools", "images", "json_object"}),
            lacks=("n", "logit_bias"),
            marker="/api/version",
        ),
        Provider(
            name="lmstudio",
            base_url="http://127.0.0.1:1234/v1",
            key_env=None,
            seed=True,
            json_schema=True,
            marker="/api/v0/models",
        ),
        Provider(
            name="openai",
            base_url="https://api.openai.com/v1",
            key_env="OPENAI_API_KEY",
            logprobs=True,
            seed=True,
            json_schema=True,
            cap_field="max_completion_tokens",
            has=frozenset({"tools", "parallel_tools", "json_object", "n"}),
        ),
        Provider(
            name="openrouter",
            base_url="https://openrouter.ai/api/v1",
            key_env="OPENROUTER_API_KEY",
            logprobs=True,
            seed=True,
            json_schema=True,
        ),
        Provider(
            name="together",
            base_url="https://api.together.xyz/v1",
            key_env="TOGETHER_API_KEY",
            seed=True,
            json_schema=True,
        ),
        Provider(
            name="groq",
            base_url="https://api.groq.com/openai/v1",
            key_env="GROQ_API_KEY",
            seed=True,
            json_schema=True,
            has=frozenset({"tools", "json_object"}),
            lacks=("logprobs", "logit_bias", "n"),
        ),
        Provider(
            name="mistral",
            base_url="https://api.mistral.ai/v1",
            key_env="MISTRAL_API_KEY",
            json_schema=True,
            has=frozenset({"tools", "parallel_tools", "json_object", "n"}),
            lacks=("seed", "logprobs"),
        ),
        Provider(
            name="deepseek",
            base_url="https://api.deepseek.com/v1",
            key_env="DEEPSEEK_API_KEY",
            logprobs=True,
            has=frozenset({"tools", "json_object"}),
            lacks=("seed", "json_schema", "n", "embeddings"),
        ),
        Provider(
            name="fireworks",
            base_url="https://api.fireworks.ai/inference/v1",
            key_env="FIREWORKS_API_KEY",
            seed=True,
            json_schema=True,
        ),
        Provider(
            name="huggingface",
            base_url="https://router.huggingface.co/v1",
            key_env="HF_TOKEN",
            logprobs=True,
            seed=True,
        ),
        Provider(
            name="anthropic",
            base_url="https://api.anthropic.com/v1",
            key_env="ANTHROPIC_API_KEY",
            has=frozenset({"tools", "images"}),
            lacks=("completions", "embeddings", "logprobs", "n", "seed"),
            adapter=True,
        ),
        Provider(
            name="gemini",
            base_url="https://generativelanguage.googleapis.com/v1beta",
            key_env="GEMINI_API_KEY",
            json_schema=True,
            seed=True,
            has=frozenset({"tools", "images", "json_object"}),
            lacks=("completions",),
            adapter=True,
        ),
    )
}

# A target that no row names: assumed to be of the kind of vLLM and llama-server. Where it cannot do what is
# asked, it says so itself; nothing is left out of what is sent.
UNKNOWN = Provider(
    name="openai-compatible", base_url=None, key_env=None, logprobs=True, seed=True, json_schema=True
)


def provider_of(url: str) -> Provider:
    """The row whose base URL a target lies under, else `UNKNOWN`."""
    for row in PROVIDERS.values():
        if row.base_url is not None and (url + "/").startswith(row.base_url.rstrip("/") + "/"):
            return row
    return UNKNOWN
