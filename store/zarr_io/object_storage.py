"""Object storage through fsspec: which options and clients reach it."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

import fsspec

from fintune_xr.errors import FintuneValueError, MissingPackageError

# Another word for AWS_ENDPOINT_URL, which botocore reads by itself.
ENDPOINT = "S3_ENDPOINT_URL"

# Another process writes too, so that a remembered listing is soon wrong.
_OPTIONS: dict[str, Any] = {"use_listings_cache": False}
# s3fs would ask for the size of every object before it reads it, to read large ones in parts side by side.
_S3_OPTIONS: dict[str, Any] = {"max_concurrency": 1}

# The variables under which the clients that are kept were made, and how often they have changed.
_environment: dict[str, str] = {}
_n_environments = 0
_lock = threading.Lock()


def check_url(url: str) -> None:
    """Raises FintuneValueError for a URL that carries a password, key or token: URLs are stored and printed."""
    parts = urlsplit(url)
    # A secret may hold a slash, behind which nothing is part of the host's name any more: a colon tells it then.
    is_bucket = parts.scheme in ("s3", "s3a", "gs", "gcs")
    if "@" in parts.netloc or parts.query or (is_bucket and ":" in parts.netloc):
        raise FintuneValueError(
            f"the URL of a store on {parts.scheme} carries more than bucket and path. Keys belong in the environment, "
            "e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, never in a URL."
        )


def options(url: str) -> dict[str, Any]:
    """How fsspec is to reach `url`; keys are not among them."""
    if not url.startswith(("s3://", "s3a://")):
        return dict(_OPTIONS)
    environment_number()
    own = os.environ.get(ENDPOINT, "")
    return {**_OPTIONS, **_S3_OPTIONS, **({"endpoint_url": own} if own else {})}


def environment_number() -> int:
    """Another number each time that endpoint, keys or profile have changed: whoever keeps a client keeps it under this.

    s3fs keeps one client per set of options for the whole process, and those are not among them: whoever changes them
    in a running session would go on reading from the place that they named before. Its clients are forgotten here.
    """
    global _n_environments
    with _lock:
        now = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == ENDPOINT}
        if _environment != now:
            if "s3fs" in sys.modules:
                sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
            _environment.clear()
            _environment.update(now)
            _n_environments += 1
        return _n_environments


def endpoint() -> str:
    """Where S3 is asked, as environment and AWS profile have it; empty for the provider's own.

    Of a profile that does not exist its name, which is no endpoint: nothing that was asked elsewhere is taken for it.
    """
    if os.environ.get(ENDPOINT):
        return os.environ[ENDPOINT]
    try:
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.exceptions import ProfileNotFound
        from botocore.session import Session
    except ImportError:
        # Without it no S3 is read.
        return ""
    session = Session()
    try:
        asked = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide()
    except ProfileNotFound:
        return f"profile {session.get_config_variable('profile')}"
    return str(asked or "")


def once_options(url: str) -> dict[str, Any]:
    """The same, with libraries that try once: the caller counts tries."""
    if not url.startswith(("s3://", "s3a://")):
        return options(url)
    return {**options(url), "config_kwargs": {"retries": {"total_max_attempts": 1}}}


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of `url`, and the path there.

    Raises FintuneValueError for an unknown protocol, MissingPackageError where its library is not installed.
    """
    protocol = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url, **options(url))  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingPackageError(
            f"{url}: the library for {protocol}:// is not installed ({error}). For S3: pip install 'fintune-xr[s3]'"
        ) from error
    except ValueError as error:
        raise FintuneValueError(f"{url}: {error}. Use a path, or a URL such as s3://bucket/cohort.zarr") from error
