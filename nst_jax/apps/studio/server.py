"""The server of the studio: one process, one device, this machine only unless asked otherwise."""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

# Gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import click
import gradio as gr
from filelock import FileLock, Timeout
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from nst_jax.apps.cli.run import enable_compilation_cache
from nst_jax.apps.studio.connect import connect
from nst_jax.apps.studio.job_queue import JobQueue
from nst_jax.apps.studio.page import CSS, lay_out, theme
from nst_jax.apps.studio.sessions import Sessions
from nst_jax.errors import InputError

__all__ = ["launch", "make_page", "serve"]

DAY: Final = 24 * 3600
FOLDER_PREFIX: Final = "nst-jax-studio-"
LOCK_NAME: Final = "lock"
PHOTOS: Final = ("cat.jpg", "astronaut.jpg", "coffee.jpg")
PAINTINGS: Final = ("swirls.jpg", "mosaic.jpg", "ink.jpg")
SECURITY_HEADERS: Final = {
    # Gradio's page has inline scripts and evaluates templates. Nothing comes from elsewhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def serve(host: str, port: int, max_upload: int) -> None:
    """Serve the page until Ctrl-C, and remove its files.

    Args:
        host: the address to listen on.
        port: the port; 0 for a free one.
        max_upload: the largest file that may be uploaded, in bytes.

    Raises:
        InputError: the address or the port cannot be used.
    """
    port = _usable_port(host, port)
    enable_compilation_cache()
    remove_abandoned_folders()
    root = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    lock = FileLock(root / LOCK_NAME)  # The system releases it, however the process ends.
    lock.acquire()
    job_queue = JobQueue()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        blocks = make_page(root, job_queue)
        launch(blocks, host, port, max_upload)
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"studio: http://{shown}:{port}  (Ctrl-C ends it)")
        if not _is_loopback(host):
            click.echo("note: everyone who reaches this machine can use the page", err=True)
        with suppress(KeyboardInterrupt):
            stopped.wait()
        blocks.close(verbose=False)
    finally:
        lock.release()
        shutil.rmtree(root, ignore_errors=True)
        if not job_queue.close(timeout=5):
            # XLA still compiles in its own threads and would crash Python at its end.
            os._exit(0)


def remove_abandoned_folders() -> None:
    """Remove the folders of this user's studios that were killed. One that runs holds its lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if not _is_own(folder) or not (folder / LOCK_NAME).is_file():
            continue
        with suppress(Timeout, OSError), FileLock(folder / LOCK_NAME, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def make_page(root: Path, job_queue: JobQueue) -> gr.Blocks:
    """Return the page.

    Args:
        root: an empty folder for all files of the studio.
        job_queue: the queue.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(root / "cache")
    photos, paintings = (_copy_examples(root, names) for names in (PHOTOS, PAINTINGS))
    with gr.Blocks(
        title="nst_jax studio", analytics_enabled=False, delete_cache=(3600, DAY)
    ) as blocks:
        page = lay_out(photos, paintings)
        connect(blocks, page, Sessions(root, job_queue), photos, paintings)
    return blocks.queue(default_concurrency_limit=None, api_open=False)


def launch(blocks: gr.Blocks, host: str, port: int, max_upload: int) -> None:
    """Start to serve a page, on threads of its own. The arguments are those of `serve`.

    This is gradio's own launch, because a page that is mounted into another application does not
    check the paths that a browser sends.
    """
    middleware = [Middleware(_Guard)]
    if _is_loopback(host):  # Another site's name that resolves to this machine is refused.
        names = ["localhost", "127.0.0.1", "[::1]", host]
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=names))
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=False,
        allowed_paths=[],
        max_file_size=max_upload,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=theme(),
        css_paths=CSS,
        app_kwargs={
            "middleware": middleware,
            **dict.fromkeys(("docs_url", "redoc_url", "openapi_url")),
        },
    )


def _usable_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as listener:
            return listener.getsockname()[1]
    except OSError as error:
        raise InputError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another --port"
        ) from error


class _Guard:
    """Refuses requests from other sites' pages, and adds `SECURITY_HEADERS` to each response."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request of ASGI."""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                pairs = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *pairs]}
            await send(message)

        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = PlainTextResponse("another site's page may not use this one", 403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send_with_headers)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_own(folder: Path) -> bool:
    """Return whether a folder is this user's; on Windows the whole temporary folder is."""
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()


def _copy_examples(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Copy example images to where gradio may read them."""
    package = Path(__file__).parents[2]
    places = (package / "bundled" / "examples", package.parent / "examples")
    folder = next(place for place in places if place.is_dir())
    (root / "examples").mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(folder / name, root / "examples")) for name in names]
