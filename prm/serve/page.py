"""The page at `/`: scores texts through the native API and shows what the model says.

The page is the plain HTML, CSS and JavaScript modules in `static`. It loads nothing from elsewhere
and is public; its requests to the API carry the token that the reader types in.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

STATIC = Path(__file__).parent / "static"

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES}

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Nothing inline, nothing from another origin, no frame around it."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """Return the page."""
    return _file(FILES["index.html"])


@router.get("/static/{name}")
async def static(name: str) -> FileResponse:
    """Return a file that the page needs.

    Raises:
        HTTPException: The page has no such file (404).
    """
    if name not in FILES:
        raise HTTPException(404, f"the page has no file {name!r}")
    return _file(FILES[name])


def _file(path: Path) -> FileResponse:
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)
