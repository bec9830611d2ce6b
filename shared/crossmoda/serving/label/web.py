"""MONAI Label's web server, for this machine's own programs.

Theirs answers web pages of any origin (so that a page in the user's browser could read and change the studies), and has
routes that unpack archives, replace weights and fetch other addresses; none of them is needed here.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from monailabel.app import app as monailabel_app
from starlette.middleware.trustedhost import TrustedHostMiddleware

CLOSED = ("/session", "/proxy", "/ohif", "/infer/wsi", "/logs/gpu")
HOSTS = "CROSSMODA_SERVED_HOSTS"  # environment variable: names, separated by commas, that requests may address


def restrict(app: FastAPI, hosts: list[str]) -> FastAPI:
    """Close the routes that are not needed, and refuse requests to other host names (DNS rebinding)."""

    def is_open(route: object) -> bool:
        path, methods = getattr(route, "path", ""), getattr(route, "methods", None) or set()
        return not path.startswith(CLOSED) and not (path.startswith("/model") and methods & {"PUT", "DELETE"})

    app.router.routes[:] = [route for route in app.router.routes if is_open(route)]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


app = restrict(monailabel_app, os.environ.get(HOSTS, "127.0.0.1,localhost").split(","))
