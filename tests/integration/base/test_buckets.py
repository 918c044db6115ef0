"""What the errors of the three clouds mean, as obstore tells them."""

import json
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from base.buckets import BucketAccess, Fault, errors, fault_of, open_source_bucket, reason_of
from tests.store_proxy import StoreProxy, store_proxy


@pytest.fixture
def refusing() -> Iterator[StoreProxy]:
    """A store that refuses everything."""
    with store_proxy("http://127.0.0.1:1") as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    variables |= {"GOOGLE_SKIP_SIGNATURE": "true"}
    variables |= {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    open_source_bucket.cache_clear()  # An earlier test may have had the same port.


def refusals(scheme: str, access: BucketAccess) -> Iterator[Exception]:
    """How a listing fails, and how an object does."""
    with pytest.raises(errors()) as raised:
        obstore.list(open_source_bucket(scheme, "bucket", access), "photos").collect()
    yield raised.value
    with pytest.raises(errors()) as raised:
        obstore.get(open_source_bucket(scheme, "bucket", access), "photos/a.jpg", options={"if_match": '"tag"'})
    yield raised.value


@pytest.mark.parametrize(
    ("scheme", "status", "code", "fault"),
    [
        # Sources: "Error responses" of S3, "HTTP status and error codes for XML" of Google Cloud Storage, "Common REST
        # API error codes" and "Blob Storage error codes" of Azure.
        ("s3", 403, "AccessDenied", Fault.DENIED),
        ("s3", 403, "InvalidAccessKeyId", Fault.DISBELIEVED),
        ("s3", 403, "SignatureDoesNotMatch", Fault.DISBELIEVED),
        ("s3", 400, "ExpiredToken", Fault.DISBELIEVED),
        ("s3", 404, "NoSuchBucket", Fault.MISSING),
        ("s3", 503, "SlowDown", Fault.FALTERS),
        ("gs", 401, "AuthenticationRequired", Fault.DISBELIEVED),
        ("gs", 403, "InvalidSecurity", Fault.DISBELIEVED),
        ("gs", 403, "AccessDenied", Fault.DENIED),
        ("gs", 404, "NoSuchBucket", Fault.MISSING),
        ("gs", 429, "SlowDown", Fault.FALTERS),
        ("gs", 400, "UserProjectMissing", Fault.OTHER),
        ("az", 403, "AuthenticationFailed", Fault.DISBELIEVED),
        ("az", 403, "AuthorizationPermissionMismatch", Fault.DENIED),
        ("az", 404, "ContainerNotFound", Fault.MISSING),
        ("az", 500, "OperationTimedOut", Fault.FALTERS),
        ("az", 503, "ServerBusy", Fault.FALTERS),
    ],
)
def test_what_a_cloud_refuses_is_understood(
    refusing: StoreProxy, scheme: str, status: int, code: str, fault: Fault
) -> None:
    refusing.refused[""] = status
    refusing.refusal = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code>\n<Message>No.\nTime:now</Message></Error>"

    found = [(fault_of(error), reason_of(error)) for error in refusals(scheme, BucketAccess(endpoint=refusing.url))]

    assert found == [(fault, f"{code}: No")] * 2


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_object_that_is_another_by_now_is_told_apart(refusing: StoreProxy, scheme: str) -> None:
    refusing.refused[""] = 412

    _, error = refusals(scheme, BucketAccess(endpoint=refusing.url))

    assert fault_of(error) is Fault.CHANGED


def test_details_of_google_are_the_reason(refusing: StoreProxy) -> None:
    refusing.refused[""] = 403
    refusing.refusal = "<Error><Code>AccessDenied</Code><Message>No.</Message><Details>Not you.</Details></Error>"

    error, _ = refusals("gs", BucketAccess(endpoint=refusing.url))

    assert reason_of(error) == "AccessDenied: Not you"


@pytest.mark.parametrize(
    ("scheme", "variables", "fault"),
    [
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "no_such.json"}, Fault.DISBELIEVED),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "broken.json"}, Fault.DISBELIEVED),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "no_key.json"}, Fault.DISBELIEVED),
        ("az", {"AZURE_STORAGE_ACCOUNT_KEY": "no base64"}, Fault.DISBELIEVED),
        ("az", {"AZURE_STORAGE_ACCOUNT_NAME": ""}, Fault.NOBODY),
    ],
)
def test_credentials_that_are_none_are_told_from_others(
    refusing: StoreProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    variables: dict[str, str],
    fault: Fault,
) -> None:
    (tmp_path / "broken.json").write_text("{")
    account = {"type": "service_account", "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "no_key.json").write_text(json.dumps(account))
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    if "GOOGLE_APPLICATION_CREDENTIALS" in variables:
        monkeypatch.delenv("GOOGLE_SKIP_SIGNATURE")

    assert [fault_of(error) for error in refusals(scheme, BucketAccess(endpoint=refusing.url))] == [fault] * 2


@pytest.mark.parametrize("status", [400, 404])  # A secret that is wrong; a tenant that there is not.
def test_token_that_is_refused_is_not_about_an_object(
    refusing: StoreProxy, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", refusing.url)
    refusing.refused["/token"] = status

    access = BucketAccess(endpoint=refusing.url)

    assert [fault_of(error) for error in refusals("az", access)] == [Fault.DISBELIEVED] * 2


@pytest.mark.parametrize(
    ("scheme", "header"), [("s3", ("x-amz-request-payer", "requester")), ("gs", ("x-goog-user-project", "our-project"))]
)
def test_who_pays_is_told_to_the_store(refusing: StoreProxy, scheme: str, header: tuple[str, str]) -> None:
    refusing.refused[""] = 404

    list(refusals(scheme, BucketAccess(endpoint=refusing.url, requester_pays=True, user_project="our-project")))

    assert all(header in headers.items() for headers in refusing.headers)
    assert len(refusing.headers) == 2
