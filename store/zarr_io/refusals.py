"""Storage that refuses or does not answer, told from bytes that are not what was written: nothing follows from it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from fintune_xr.errors import FintuneError, StoreUnreachableError, UnreadableFileError

# Libraries of object storage raise errors of their own families, which need not be installed here.
_LIBRARIES: Final = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")
_NOT_THERE: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)
# What the system says of numbers that no file has, such as those of a damaged description.
_WRONG_NUMBERS: Final = (None, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ENAMETOOLONG)


def is_refusal(error: BaseException) -> bool:
    """Whether `error` says that storage refused or did not answer, and so nothing about what lies there.

    True of lost connections, timeouts, missing permission, errors of the libraries of object storage, and of all else
    that the system says of a file that is there (a mount that is gone, a disk that cannot be read, too many open
    files). False of what is not there, and of errors of ours and of codecs.
    """
    if isinstance(error, (FintuneError, *_NOT_THERE)) or "not satisfiable" in str(error):
        return False
    if _is_of_library(error) or isinstance(error, (ConnectionError, TimeoutError, PermissionError)):
        return True
    # s3fs words answers of S3 as errors of the system.
    return isinstance(error, OSError) and (error.errno not in _WRONG_NUMBERS or _is_of_library(error.__cause__))


def unreachable(what: str, said: object) -> StoreUnreachableError:
    """The error of storage that refuses `what`, a path or a URL, or does not answer; shows no key.

    Of a path that the disk cannot give it is an UnreadableFileError.
    """
    if "://" not in what and isinstance(said, OSError) and said.errno == errno.EIO:
        return UnreadableFileError(what, str(said))
    remedy = (
        "Endpoint and keys come from the environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or "
        "~/.aws). Where they are right"
        if "://" in what
        else "See that it may be read, and that its file system is mounted and answers (ls -l, df). When it does"
    )
    return StoreUnreachableError(
        f"cannot reach {what}: {said}. Nothing is known of what lies there; this is no damage. {remedy}, run the same "
        "command again."
    )


@contextlib.contextmanager
def explain_refusals(what: str) -> Iterator[None]:
    """Turns what `is_refusal` into a StoreUnreachableError; `what` is the path or the URL that was asked for."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        raise unreachable(what, error) from error


def _is_of_library(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in _LIBRARIES
