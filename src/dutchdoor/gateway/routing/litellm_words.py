"""LiteLLM's words and what they are here: providers, settings that are taken over, and why others are not."""

# LiteLLM's provider → the row of ours
PROVIDERS_HERE = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "openrouter": "openrouter",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "hosted_vllm": "vllm",
    "vllm": "vllm",
    "lm_studio": "lmstudio",
    "llamafile": "llama-server",
}

# those that serve the OpenAI dialect at an address that the config must give
COMPATIBLE = frozenset(
    {
        "huggingface",
        "openai_like",
        "custom_openai",
        "litellm_proxy",
        "xai",
        "perplexity",
        "cerebras",
        "nvidia_nim",
        "deepinfra",
        "novita",
        "sambanova",
        "moonshot",
        "nebius",
        "friendliai",
        "featherless_ai",
        "docker_model_runner",
        "xinference",
        "infinity",
    }
)

DEFAULT_BASE = {
    "ollama": "http://127.0.0.1:11434",
    "ollama_chat": "http://127.0.0.1:11434",
    "lm_studio": "http://127.0.0.1:1234",
    "llamafile": "http://127.0.0.1:8080",
}
SERVED_AT_V1 = frozenset({*DEFAULT_BASE, "hosted_vllm", "vllm"})

_AWS = "requests to it are signed with AWS keys, which no target here does"
_GOOGLE = "it needs Google Cloud's credentials; gemini/… with an API key is reached"
_AZURE = "Azure has an address for each deployment and an api-version; give its …/openai/v1 as a target's url"
NOT_REACHED = {
    "azure": _AZURE,
    "azure_ai": _AZURE,
    "azure_text": _AZURE,
    "bedrock": _AWS,
    "bedrock_converse": _AWS,
    "sagemaker": _AWS,
    "sagemaker_chat": _AWS,
    "vertex_ai": _GOOGLE,
    "vertex_ai_beta": _GOOGLE,
}

# `model_info` → `can`
ABILITIES = {
    "supports_function_calling": "tools",
    "supports_parallel_function_calling": "parallel_tools",
    "supports_vision": "images",
    "supports_response_schema": "json_schema",
}
MODES: dict[str, dict[str, bool | int]] = {
    "embedding": {"chat": False, "completions": False, "embeddings": True},
    "chat": {"chat": True},
    "completion": {"completions": True},
}

_PRICES = frozenset({"input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost"})
KNOWN = {
    "litellm_params": _PRICES
    | {
        "model",
        "api_base",
        "base_url",
        "api_key",
        "custom_llm_provider",
        "weight",
        "rpm",
        "tpm",
        "order",
        "timeout",
    },
    # what only describes a model is not needed to serve it
    "model_info": _PRICES
    | {
        "id",
        "mode",
        "base_model",
        "description",
        "max_tokens",
        "max_input_tokens",
        "max_output_tokens",
        "litellm_provider",
        "supports_system_messages",
        "supports_tool_choice",
    },
    "router_settings": frozenset(
        {
            "routing_strategy",
            "fallbacks",
            "default_fallbacks",
            "num_retries",
            "timeout",
            "model_group_alias",
        }
    ),
    "litellm_settings": frozenset({"fallbacks", "default_fallbacks", "num_retries", "request_timeout"}),
    "general_settings": frozenset[str](),
}

_FALLBACKS = "a target is passed over when it fails or cannot do what is asked, and for no other reason"
_LOGGING = "requests are in the ledger and the log, never with prompts"
_KEYS = "keys are made with `dutchdoor keys create`, and live in the ledger"
_LEDGER = "the ledger is in the data folder, or at the address that `serve` is given"
_BREAKER = "each target has a circuit breaker with numbers of its own"
_DROPS = (
    "parameters are never dropped here: a target that cannot do one is passed over, or it is refused by name"
)
_BODY = "a request goes to the target as the client wrote it: nothing is added to it"
_WHY = {
    "drop_params": _DROPS,
    "additional_drop_params": _DROPS,
    "allowed_openai_params": "every parameter is passed on",
    "context_window_fallbacks": _FALLBACKS,
    "content_policy_fallbacks": _FALLBACKS,
    "callbacks": _LOGGING,
    "success_callback": _LOGGING,
    "failure_callback": _LOGGING,
    "service_callback": _LOGGING,
    "set_verbose": _LOGGING,
    "json_logs": "the log is JSON lines",
    "turn_off_message_logging": "prompts are never logged",
    "cache": "answers are not cached",
    "cache_params": "answers are not cached",
    "master_key": _KEYS,
    "salt_key": _KEYS,
    "database_url": _LEDGER,
    "store_model_in_db": "models are in the routes file, which is watched",
    "allowed_fails": _BREAKER,
    "cooldown_time": _BREAKER,
    "retry_policy": "further tries have a budget; only their number is taken over",
    "max_retries": "further tries are a route's: router_settings.num_retries",
    "enable_pre_call_checks": "the contract is always checked",
    "redis_host": "limits that hosts share are set where the server is started",
    "redis_port": "limits that hosts share are set where the server is started",
    "redis_password": "limits that hosts share are set where the server is started",
    "redis_url": "limits that hosts share are set where the server is started",
    "routing_strategy_args": "targets are drawn by weight",
    "max_parallel_requests": "a target has no limit of its own",
    "max_budget": "budgets are a key's: `dutchdoor keys create --budget`",
    "budget_duration": "budgets are a key's: `dutchdoor keys create --budget --per`",
    "stream_timeout": "one timeout holds between any two pieces: `timeout`",
    "max_tokens": _BODY,
    "temperature": _BODY,
    "extra_body": _BODY,
    "extra_headers": _BODY,
    "organization": _BODY,
    "api_version": "only Azure has it",
    "tags": "routes have no tags",
    "include": "files are not joined: read each of them",
    "guardrails": "a guard belongs to a member of a family: `serve: {guard: …}` in its manifest",
    "mcp_servers": "tools are the client's",
}


def why_not(field: str) -> str:
    """Why a field is not taken over."""
    return _WHY.get(field, "there is no such setting here")
