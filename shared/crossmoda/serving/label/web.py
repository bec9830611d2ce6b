"""MONAI Label's web server, for this machine's own programs.

Theirs answers web pages of any origin (so that a page in the user's browser could read and change the studies), and has
routes that unpack archives, replace weights and fetch other addresses; none of them is needed here.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from fastapi import FastAPI
from monailabel.app import app as monailabel_app
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CLOSED = ("/session", "/proxy", "/ohif", "/infer/wsi", "/logs/gpu")
READ_ONLY = ("/model",)
HOSTS = "CROSSMODA_SERVED_HOSTS"  # environment variable: names, separated by commas, that requests may address


class Restricted:
    """ASGI middleware: answers 404 for routes that are not needed, and 403 to web pages of other origins.

    Args:
        app: what answers the other requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self.app)(scope, receive, send)

    @staticmethod
    def _refusal(scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("not answered to other origins", 403)
        changes = scope["method"] not in ("GET", "HEAD")
        if scope["path"].startswith(CLOSED) or (changes and scope["path"].startswith(READ_ONLY)):
            return PlainTextResponse("not served", 404)
        return None


def restrict(app: FastAPI, hosts: list[str]) -> FastAPI:
    """Close what is not needed, and refuse other origins and other host names (DNS rebinding)."""
    # Its setting for the allowed origins cannot be used: MONAI Label fails to log it.
    app.user_middleware[:] = [entry for entry in app.user_middleware if entry.cls is not CORSMiddleware]
    app.add_middleware(Restricted)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


app = restrict(monailabel_app, os.environ.get(HOSTS, "127.0.0.1,localhost").split(","))
