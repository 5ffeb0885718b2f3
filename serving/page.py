"""The page at ``/``: static files of the package, and headers that keep anything else out of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["router"]

_FOLDER = Path(__file__).parent / "page"
# Not from the mimetypes module, which asks the system; on some the scripts would be plain text.
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked about each time, so that a new version is seen at once
    # Previews are blob: addresses, the icon is a data: one; all else is this server's.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class _PageFile:
    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, file: Path) -> _PageFile:
        content = file.read_bytes()
        return cls(content, _MEDIA_TYPES[file.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def response(self, request: Request) -> Response:
        headers = {**_HEADERS, "ETag": self.etag}
        known = request.headers.get("If-None-Match", "")
        if self.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def router() -> APIRouter:
    """``/`` and ``/page/NAME``. The files are read now and kept; together they are small."""
    files = {file.name: _PageFile.read(file) for file in _FOLDER.iterdir() if file.suffix in _MEDIA_TYPES}
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return files["index.html"].response(request)

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def page(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].response(request)

    return routes
