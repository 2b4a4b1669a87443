"""A real S3-compatible server (moto's) over HTTP: `pip install "atomlora[s3test]"`, then with ATOMLORA_S3_TEST=1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from atomlora.errors import StoreError
from atomlora.store import Store
from atomlora.store.transfer import pull, push

pytestmark = pytest.mark.skipif(os.environ.get("ATOMLORA_S3_TEST") != "1", reason="opt-in: ATOMLORA_S3_TEST=1")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a store in an empty bucket of a server on this machine."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://{host}:{port}", "ATOMLORA_CACHE": str(tmp_path / "cache")}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("atoms")
    yield "s3://atoms/stores/one"
    server.stop()


def test_a_store_goes_to_s3_and_back(store_path: Path, bucket: str, tmp_path: Path, make: SimpleNamespace) -> None:
    sent = push(store_path, bucket)
    assert sent.objects > 4
    assert push(store_path, bucket).objects == 0
    expected = [atom.id for atom in Store.open(store_path).atoms()]
    with Store.open(bucket) as store:
        assert [atom.id for atom in store.atoms()] == expected
        assert store.weights(expected[0]).tobytes() == Store.open(store_path).weights(expected[0]).tobytes()
        assert store.verify().ok
    pull(bucket, tmp_path / "other")
    assert Store.open(tmp_path / "other").verify().ok
    make.build(tmp_path / "other", [1, 2, 90])
    push(tmp_path / "other", bucket)
    assert len(Store.open(bucket)) == 3
    make.build(store_path, [5])
    with pytest.raises(StoreError, match="pull it first"):
        push(store_path, bucket)
    with pytest.raises(StoreError, match="there is no store"):
        Store.open("s3://atoms/nothing")
    with pytest.raises(StoreError, match="s3://no-such-bucket"):
        push(store_path, "s3://no-such-bucket-here/x")
