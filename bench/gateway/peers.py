"""The gateways that are compared: how each is installed, set and started, and what it does for a request.

Each peer gets the settings that its own documentation names for production. Only package indexes are asked
(PyPI, npm, the distribution's); an environment that has the pinned version is left as it is.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = HERE.parent / ".peers"
PINS: dict[str, str] = tomllib.loads((HERE / "versions.toml").read_text())


class Missing(Exception):  # noqa: N818 — a state, not an error of ours
    """A peer cannot be had here; the message says why and what would help."""


@dataclass
class Launch:
    """How it is started, and what a request to it looks like."""

    command: list[str]
    port: int = 0
    port_file: Path | None = None  # where it writes the port that it took
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    model: str = "bench"
    ready_path: str | None = None
    start_limit_s: float = 30.0
    silent: bool = False  # its log goes to /dev/null


@dataclass
class Peer:
    name: str
    title: str
    duties: str  # what of key, limits, price and ledger is on
    settings: str
    install: Callable[[str, Callable[[str], None]], None]
    prepare: Callable[[Path, int, int, int], Launch]  # work folder, port, upstream's port, workers
    version: Callable[[], str]
    drain_s: float = 5.0  # how long 64 answers under way may take at the end of a measurement


def _run(
    command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, limit_s: float = 400
) -> str:
    try:
        done = subprocess.run(
            command, check=False, cwd=cwd, env=env, capture_output=True, text=True, timeout=limit_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{shlex.join(command[:4])}…: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Missing(f"{shlex.join(command[:4])}… ended with {done.returncode}: {' '.join(last)}")
    return done.stdout


def _python_env(name: str, requirement: str) -> Callable[[str, Callable[[str], None]], None]:
    def install(pin: str, say: Callable[[str], None]) -> None:
        folder = CACHE / name
        if _installed(name, name) == pin:
            return
        say(f"installing {requirement}=={pin}")
        if not (folder / "bin" / "python").exists():
            _run([sys.executable, "-m", "venv", str(folder)])
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _run([*pip, f"{requirement}=={pin}"])

    return install


def _installed(folder: str, package: str) -> str:
    """The version of a package in an environment of ours; empty where there is none."""
    for info in (CACHE / folder).glob(f"lib/python3*/site-packages/{package.replace('-', '_')}-*.dist-info"):
        return info.name.removesuffix(".dist-info").partition("-")[2]
    return ""


# --- ours -----------------------------------------------------------------------------------------------------------

PRICE = "{input: 0.50, output: 1.50}"  # USD per million tokens, as LiteLLM's below
OURS = [str(ROOT / ".venv" / "bin" / "dutchdoor")]


def _prepare_ours(work: Path, port: int, upstream: int, workers: int) -> Launch:
    data = work / "data"
    routes = work / "routes.yaml"
    routes.write_text(
        "kind: dutchdoor/routes@1\n"
        f'targets: {{bench: {{url: "http://127.0.0.1:{upstream}/v1", model: bench, price: {PRICE}}}}}\n'
        "routes: {bench: [bench]}\n"
    )
    create = [
        *OURS,
        "keys",
        "create",
        "--name",
        "bench",
        "--budget",
        "1000000",
        "--data",
        str(data),
        "--format",
        "json",
    ]
    try:
        made = _run([*create, "--rpm", "100000000"], limit_s=30)
    except Missing as error:
        if "rpm" not in str(error):  # an older build has no rate limits yet
            raise
        made = _run(create, limit_s=30)
    many = ["--workers", str(workers)] if workers > 1 else []
    return Launch(
        [*OURS, "serve", str(routes), "--port", str(port), "--data", str(data), *many],
        port=port,
        headers={"authorization": "Bearer " + json.loads(made.strip().splitlines()[-1])["key"]},
        ready_path="/readyz",
        silent=True,
    )


def booked(work: Path) -> int | None:
    """How many requests the ledger charged; None where the bill cannot be had."""
    try:
        bill = json.loads(_run([*OURS, "bill", "--format", "json", "--data", str(work / "data")], limit_s=60))
    except (Missing, ValueError):
        return None
    return sum(int(line["requests"]) for line in bill["lines"])


def _version_ours() -> str:
    try:
        return _run([*OURS, "--version"], limit_s=30).split()[-1]
    except (Missing, IndexError):
        return "?"


# --- nginx ----------------------------------------------------------------------------------------------------------

NGINX = """
worker_processes {workers};
worker_rlimit_nofile 8192;
daemon off;
pid {work}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    client_body_buffer_size 64k; client_max_body_size 32m;
    keepalive_requests 100000000; keepalive_timeout 600s; tcp_nodelay on;
    upstream target {{
        server 127.0.0.1:{upstream};
        keepalive 512; keepalive_requests 100000000; keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096 reuseport;
        location / {{
            proxy_pass http://target;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def _install_nginx(_pin: str, say: Callable[[str], None]) -> None:
    if _nginx():
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Missing("nginx is not installed; install it: sudo apt-get install nginx")
    say("installing nginx")
    quiet = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",
    }  # 1: its service is not started
    try:
        _run(["apt-get", "install", "-y", "nginx"], env=quiet)
    except Missing:
        _run(["apt-get", "update"], env=quiet)
        _run(["apt-get", "install", "-y", "nginx"], env=quiet)


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _prepare_nginx(work: Path, port: int, upstream: int, workers: int) -> Launch:
    config = work / "nginx.conf"
    user = "" if os.geteuid() else "user root;\n"  # its folder is ours alone
    config.write_text(user + NGINX.format(work=work, port=port, upstream=upstream, workers=workers))
    return Launch([str(_nginx()), "-c", str(config), "-p", str(work)], port=port)


def _version_nginx() -> str:
    done = subprocess.run([str(_nginx()), "-v"], check=False, capture_output=True, text=True)
    return done.stderr.strip().rpartition("/")[2]


# --- LiteLLM --------------------------------------------------------------------------------------------------------

LITELLM = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{upstream}/v1",
                      api_key: none, input_cost_per_token: 0.0000005, output_cost_per_token: 0.0000015}}
general_settings: {{master_key: sk-bench, proxy_batch_write_at: 60, disable_error_logs: true}}
litellm_settings: {{request_timeout: 600, set_verbose: false, json_logs: true, telemetry: false{callbacks}}}
"""
# Its documented ways to have keys and a record of each request without its database: a custom auth function, whose
# limits its own limiter holds, and a logger that is called after each answer.
LITELLM_DUTIES = """
import json
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

async def key(request, api_key):
    if api_key != "sk-alice":
        raise ValueError("unknown key")
    limits = {"rpm_limit": 100000000, "max_budget": 1e6, "spend": 0.0}
    return UserAPIKeyAuth(api_key=api_key, key_alias="alice", user_id="alice", **limits)

class Ledger(CustomLogger):
    rows = open("ledger.jsonl", "a", buffering=1)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        said = kwargs["standard_logging_object"]
        row = {name: said.get(name) for name in ("id", "model", "prompt_tokens", "completion_tokens", "response_cost")}
        self.rows.write(json.dumps(row) + "\\n")

ledger = Ledger()
"""


def _prepare_litellm(work: Path, port: int, upstream: int, workers: int, *, duties: bool = False) -> Launch:
    config = work / "config.yaml"
    text = LITELLM.format(upstream=upstream, callbacks=", callbacks: [duties.ledger]" if duties else "")
    if duties:
        (work / "duties.py").write_text(LITELLM_DUTIES)
        text = text.replace("general_settings: {", "general_settings: {custom_auth: duties.key, ")
    config.write_text(text)
    litellm = str(CACHE / "litellm" / "bin" / "litellm")
    return Launch(
        [
            litellm,
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--num_workers",
            str(workers),
        ],
        port=port,
        env={
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks GitHub for prices at import
            "LITELLM_TELEMETRY": "False",
        },
        headers={"authorization": "Bearer sk-alice" if duties else "Bearer sk-bench"},
        start_limit_s=120,
    )


# --- Portkey --------------------------------------------------------------------------------------------------------


def _install_portkey(pin: str, say: Callable[[str], None]) -> None:
    server = PINS["portkey-node-server"]
    if _version_portkey() == pin and _npm_version("@hono/node-server") == server:
        return
    if not shutil.which("npm"):
        raise Missing("npm is not installed; install Node.js 20 or newer")
    say(f"installing @portkey-ai/gateway@{pin}")
    folder = CACHE / "portkey"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    package = {"name": "bench-portkey", "private": True, "overrides": {"@hono/node-server": server}}
    (folder / "package.json").write_text(json.dumps(package))
    _run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"@portkey-ai/gateway@{pin}"],
        cwd=folder,
    )


def _npm_version(package: str) -> str:
    try:
        return str(
            json.loads((CACHE / "portkey" / "node_modules" / package / "package.json").read_text())["version"]
        )
    except (OSError, ValueError, KeyError):
        return ""


def _version_portkey() -> str:
    return _npm_version("@portkey-ai/gateway")


def _prepare_portkey(work: Path, port: int, upstream: int, workers: int) -> Launch:
    program = CACHE / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return Launch(
        [str(shutil.which("node")), str(program), "--headless", f"--port={port}"],
        port=port,
        env={"NODE_ENV": "production"},
        headers={
            "authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
        },
    )


# --- TensorZero -----------------------------------------------------------------------------------------------------

TENSORZERO = """
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.bench]
routing = ["local"]

[models.bench.providers.local]
type = "openai"
model_name = "bench"
api_base = "http://127.0.0.1:{upstream}/v1/"
api_key_location = "none"
"""

EMBED = """
import signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from tensorzero import patch_openai_client

class Client:
    pass

client = Client()
patch_openai_client(client, config_file=sys.argv[1], async_setup=False)
Path(sys.argv[2]).write_text(str(client.base_url))
signal.pause()
"""


def _prepare_tensorzero(work: Path, port: int, upstream: int, workers: int) -> Launch:
    config, program, said = work / "tensorzero.toml", work / "embed.py", work / "url"
    config.write_text(TENSORZERO.format(upstream=upstream))
    program.write_text(EMBED)
    said.unlink(missing_ok=True)
    return Launch(
        [str(CACHE / "tensorzero" / "bin" / "python"), str(program), str(config), str(said)],
        port_file=said,
        env={"RUST_LOG": "error"},
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::bench",
    )


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "dutchdoor",
            "Dutchdoor",
            "key, rate limit, budget, price, ledger; SQLite, WAL, `synchronous=FULL`",
            "one process; a key with `--budget` and `--rpm`; a priced target; log on, to /dev/null",
            lambda _pin, _say: None,
            _prepare_ours,
            _version_ours,
        ),
        Peer(
            "nginx",
            "nginx",
            "none: a plain proxy, the bar",
            "one worker; upstream and client connections kept; `proxy_buffering off`; no access log",
            _install_nginx,
            _prepare_nginx,
            _version_nginx,
        ),
        Peer(
            "tensorzero",
            "TensorZero",
            "none: keys and limits need PostgreSQL and its own server binary, the ledger ClickHouse",
            "the gateway embedded in its Python package (Rust, HTTP); observability and usage analytics off",
            _python_env("tensorzero", "tensorzero"),
            _prepare_tensorzero,
            lambda: _installed("tensorzero", "tensorzero"),
        ),
        Peer(
            "portkey",
            "Portkey",
            "none: the open gateway has no keys, limits or ledger",
            "`NODE_ENV=production`, `--headless`",
            _install_portkey,
            _prepare_portkey,
            _version_portkey,
        ),
        Peer(
            "litellm",
            "LiteLLM, plain",
            "price, and the master key for everyone: no limits, no ledger",
            "one uvicorn worker a core, `LITELLM_LOG=ERROR`, `LITELLM_MODE=PRODUCTION`, `proxy_batch_write_at: 60`, "
            "`disable_error_logs`, JSON logs, prices from the package instead of the network",
            _python_env("litellm", "litellm[proxy]"),
            _prepare_litellm,
            lambda: _installed("litellm", "litellm"),
            drain_s=15.0,
        ),
        Peer(
            "litellm-keys",
            "LiteLLM, keys",
            "price, a key and its limits by a custom auth function, a line in a file by a custom logger; its own keys "
            "and ledger need PostgreSQL and Prisma's engine, which comes from neither PyPI nor npm",
            "as above",
            _python_env("litellm", "litellm[proxy]"),
            lambda work, port, upstream, workers: _prepare_litellm(
                work, port, upstream, workers, duties=True
            ),
            lambda: _installed("litellm", "litellm"),
            drain_s=15.0,
        ),
    )
}


def wait_for_port(launch: Launch, alive: Callable[[], bool], limit_s: float) -> int:
    """The port that it took; 0 when it ended or did not say."""
    if launch.port_file is None:
        return launch.port
    until = time.monotonic() + limit_s
    while time.monotonic() < until and alive():
        if launch.port_file.exists() and (text := launch.port_file.read_text()).startswith("http"):
            return int(text.split(":")[2].split("/")[0])
        time.sleep(0.002)
    return 0
