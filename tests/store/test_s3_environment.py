"""Endpoint and keys are read from the environment as it is now, not as it was when the process first asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from s3_server import KEYS, s3_server
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from fintune_xr.store.raw.fetching import read_file
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.object_storage import file_system, once_options


@contextmanager
def storage(patch: pytest.MonkeyPatch, variable: str, content: str) -> Iterator[None]:
    """A server of its own on a port of its own, named by `variable`."""
    with s3_server() as address:
        for name, value in {**KEYS, variable: address}.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=address)
        if "kept" not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket="kept")
        client.put_object(Bucket="kept", Key="a.txt", Body=content.encode())
        yield


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL"])
def test_an_endpoint_that_changes_in_a_session_is_the_one_asked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A handle that was made before the change is asked too, as a session holds one.
    store = Location.of("s3://kept")
    for content in ("first", "second"):
        with storage(monkeypatch, variable, content):
            system, path = file_system("s3://kept/a.txt")
            assert system.cat_file(path) == content.encode()
            found = sync(store.zarr().get("a.txt", default_buffer_prototype()))
            assert found is not None
            assert found.to_bytes() == store.read("a.txt") == content.encode()
            assert read_file("s3://kept/a.txt") == content.encode()


def test_changed_keys_make_a_new_client_and_unchanged_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    first, _ = file_system("s3://kept/a.txt")
    assert file_system("s3://kept/b.txt")[0] is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert file_system("s3://kept/a.txt")[0] is not first


def test_no_key_is_among_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not to be seen")
    assert "not to be seen" not in repr(once_options("s3://kept/a.txt"))
