"""Object storage through fsspec, and what goes wrong on the way there in words."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import fsspec

from fintune_xr.errors import FintuneValueError, MissingPackageError, StoreUnreachableError

# Another word for AWS_ENDPOINT_URL, which botocore reads by itself.
ENDPOINT = "S3_ENDPOINT_URL"

# Libraries of object storage raise errors of their own families, which need not be installed here.
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")
# Another process writes too, so that a remembered listing is soon wrong.
_OPTIONS: dict[str, Any] = {"use_listings_cache": False}
# s3fs would ask for the size of every object before it reads it, to read large ones in parts side by side.
_S3_OPTIONS: dict[str, Any] = {"max_concurrency": 1}


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
    endpoint = os.environ.get(ENDPOINT, "")
    return {**_OPTIONS, **_S3_OPTIONS, **({"endpoint_url": endpoint} if endpoint else {})}


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


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns refusals of object storage into a StoreUnreachableError that shows no key."""
    try:
        yield
    except Exception as error:
        is_refusal = isinstance(error, PermissionError) or type(error).__module__.partition(".")[0] in _LIBRARIES
        if not is_refusal:
            raise
        raise StoreUnreachableError(
            f"cannot reach {url}: {error}. Endpoint and keys come from the environment: AWS_ENDPOINT_URL, "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or ~/.aws)."
        ) from error
