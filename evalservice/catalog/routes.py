"""`/v1/models`, `/v1/capabilities`, `/v1/datasets`, `/v1/dataset-files`, `/v1/benchmarks`: the catalog over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.orm import joinedload

from evalservice.catalog import service
from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.datasets import snapshot
from evalservice.catalog.formats import Record, guess_format, inline_records, read_records
from evalservice.catalog.schemas import (
    BenchmarkChanges,
    BenchmarkRead,
    CapabilityRead,
    DatasetBody,
    DatasetChanges,
    DatasetRead,
    ModelChanges,
    ModelRead,
    NewBenchmark,
    NewModel,
    TestCaseRead,
    UploadRead,
)
from evalservice.catalog.snapshots import Snapshot, open_snapshot
from evalservice.catalog.uploads import Upload, opened_upload, remove_upload
from evalservice.errors import Forbidden, InvalidInput
from evalservice.lookup import find
from evalservice.organizations.secrets import origin_of
from evalservice.tables import BenchmarkSuite, EvaluationDataset, Model, ModelCapability, ModelCapabilityLink
from evalservice.web.context import Context, Door, Reader, TenantRoute, Writer, WritingDoor
from evalservice.web.idempotency import Idempotent
from evalservice.web.pages import Filter, Page, Paging, page_of

models = APIRouter(prefix="/models", tags=["models"], route_class=TenantRoute)
capabilities = APIRouter(prefix="/capabilities", tags=["models"], route_class=TenantRoute)
datasets = APIRouter(prefix="/datasets", tags=["datasets"], route_class=TenantRoute)
dataset_files = APIRouter(prefix="/dataset-files", tags=["datasets"], route_class=TenantRoute)
benchmarks = APIRouter(prefix="/benchmarks", tags=["benchmarks"], route_class=TenantRoute)


@models.get("", response_model=Page[ModelRead])
def list_models(
    context: Reader,
    paging: Paging,
    status: Filter = None,
    platform: Filter = None,
    platform_model_id: Filter = None,
    name: Filter = None,
    capability: Filter = None,
) -> Response:
    """The models, the newest first; archived ones only when `status=archived` asks for them."""
    query = select(Model).where(Model.status == status if status else Model.status != "archived")
    for column, wanted in (
        (Model.platform, platform),
        (Model.platform_model_id, platform_model_id),
        (Model.name, name),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if capability is not None:
        query = query.where(
            Model.id.in_(
                select(ModelCapabilityLink.model_id)
                .join(ModelCapability, ModelCapability.id == ModelCapabilityLink.capability_id)
                .where(ModelCapability.name == capability)
            )
        )
    return context.reply(
        page_of(context.session, query, paging, {"created_at": Model.created_at}, Model.id, ModelRead.of)
    )


@models.post("", status_code=201, response_model=ModelRead)
def create_model(context: Writer, new: NewModel, once: Idempotent) -> Response:
    """Register a model. Its key is stored encrypted and sent to its own origin only."""

    if new.api_key is not None:
        context.caller.require("admin")  # as for every provider key that is stored

    def work() -> Response:
        context.wiring.check_model(new.platform, new.config)
        model = service.add_model(
            context.session,
            context.organization_id,
            new,
            context.wiring.box,
            platforms=context.wiring.platforms,
            private_addresses=context.wiring.private_addresses,
            user_id=context.caller.user_id,
        )
        context.session.refresh(model)
        return context.created(ModelRead.of(model), model.id)

    return once.answer(context, work)


@models.get("/{model:path}", response_model=ModelRead)
def read_model(context: Reader, model: str) -> Response:
    """A model by id, name (its newest version) or name@version."""
    return context.reply(ModelRead.of(find(context.session, Model, model, "model")))


@models.patch("/{model:path}", response_model=ModelRead)
def change_model(context: Writer, model: str, changes: ModelChanges) -> Response:
    """Change what no result depends on; `status: archived` takes it out of lists and new runs."""
    row = find(context.session, Model, model, "model")
    context.session.refresh(row, with_for_update=True)
    context.check_unchanged(ModelRead.of(row))
    given = changes.model_dump(include=changes.model_fields_set)
    if given.get("credential_id") is not None:
        origin = origin_of(row.base_url or context.wiring.platforms.get(row.platform, ""))
        service.credential_of_origin(context.session, given["credential_id"], origin)
    service.change_model(context.session, row, given)
    return context.reply(ModelRead.of(row))


@models.delete(
    "/{model:path}", response_model=ModelRead, responses={204: {"description": "Deleted: nothing hung on it."}}
)
def remove_model(context: Writer, model: str) -> Response:
    """Delete a model that nothing hangs on (204); else archive it (200)."""
    row = find(context.session, Model, model, "model")
    return _gone(service.remove_model(context.session, row)) or context.reply(ModelRead.of(row))


def _gone(deleted: bool) -> Response | None:
    return Response(status_code=204) if deleted else None


@capabilities.get("", response_model=Page[CapabilityRead])
def list_capabilities(context: Reader, paging: Paging) -> Response:
    """What models may declare."""
    sorts = {"name": ModelCapability.name}
    paging.sort = paging.sort or "name"
    return context.reply(
        page_of(context.session, select(ModelCapability), paging, sorts, ModelCapability.id, CapabilityRead.of)
    )


@datasets.get("", response_model=Page[DatasetRead])
def list_datasets(context: Reader, paging: Paging, name: Filter = None, archived: bool = False) -> Response:
    """The datasets, the newest first."""
    query = _listed(select(EvaluationDataset), EvaluationDataset, name, archived)
    sorts = {"created_at": EvaluationDataset.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, EvaluationDataset.id, DatasetRead.of))


def _listed(query: Select[Any], kind: Any, name: str | None, archived: bool) -> Select[Any]:
    query = query.where(kind.archived_at.isnot(None) if archived else kind.archived_at.is_(None))
    return query if name is None else query.where(kind.name == name)


@datasets.post("", status_code=201, response_model=DatasetRead)
def create_dataset(context: Writer, new: DatasetBody, once: Idempotent) -> Response:
    """Register a dataset: every record is validated, then a snapshot is kept. One bad record refuses all."""
    if (new.test_cases is None) == (new.file_path is None):
        raise InvalidInput("test_cases", None, "either test_cases or the file_path of an uploaded file")

    def work() -> Response:
        service.refuse_taken_dataset(context.session, new.name)
        if new.test_cases is not None:
            stored = _snapshot(context, new, inline_records(new.test_cases), "test_cases")
            return _registered(context, new, stored, "", new.test_cases)
        assert new.file_path is not None
        chosen = new.file_format or guess_format(new.file_path)
        with _opened_file(context, new.file_path) as path:
            stored = _snapshot(context, new, read_records(path, chosen), new.source or new.file_path)
        return _registered(context, new, stored, chosen, ())

    return once.answer(context, work)


@contextmanager
def _opened_file(context: Context, file_path: str) -> Iterator[Path]:
    if context.wiring.local_files:
        yield Path(file_path)
        return
    with opened_upload(context.wiring.data_root, context.organization_id, file_path) as path:
        yield path


def _snapshot(context: Context, new: DatasetBody, records: Iterable[Record], source: str) -> Snapshot:
    return snapshot(
        records,
        context.wiring.data_root,
        context.organization_id,
        mapping=new.mapping,
        input_schema=new.input_schema or None,
        output_schema=new.output_schema or None,
        source=source,
    )


def _registered(
    context: Context, new: DatasetBody, stored: Snapshot, file_format: str, inline: Iterable[Any]
) -> Response:
    dataset = service.add_dataset(
        context.session,
        context.organization_id,
        new,
        stored,
        file_path=new.source or new.file_path or "",
        file_format=file_format,
        test_cases=inline,
        user_id=context.caller.user_id,
    )
    return context.created(DatasetRead.of(dataset), dataset.id)


class TestCases(BaseModel):
    """Some records, and the index to go on from; null at the end."""

    items: list[TestCaseRead]
    next_start: int | None


@datasets.get("/{dataset}/test-cases", response_model=TestCases)
def list_test_cases(
    context: Reader,
    dataset: str,
    start: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """The dataset's records as they were snapshotted, by index."""
    row = find(context.session, EvaluationDataset, dataset, "dataset")
    stop = min(start + limit, row.total_test_cases)
    cases = read_block(open_snapshot(row.snapshot_uri), Block(start, stop)) if start < stop else []
    following = stop if stop < row.total_test_cases and start < stop else None
    return context.reply(TestCases(items=[TestCaseRead.of(case) for case in cases], next_start=following))


@datasets.get("/{dataset:path}", response_model=DatasetRead)
def read_dataset(context: Reader, dataset: str) -> Response:
    """A dataset by id or name, without its records."""
    return context.reply(DatasetRead.of(find(context.session, EvaluationDataset, dataset, "dataset")))


@datasets.patch("/{dataset:path}", response_model=DatasetRead)
def change_dataset(context: Writer, dataset: str, changes: DatasetChanges) -> Response:
    """Change description and tags."""
    row = find(context.session, EvaluationDataset, dataset, "dataset")
    service.refuse_public_dataset(context.session, row)
    context.session.refresh(row, with_for_update=True)
    context.check_unchanged(DatasetRead.of(row))
    service.change(context.session, row, changes.model_dump(include=changes.model_fields_set))
    return context.reply(DatasetRead.of(row))


@datasets.delete(
    "/{dataset:path}", response_model=DatasetRead, responses={204: {"description": "Deleted: nothing hung on it."}}
)
def remove_dataset(context: Writer, dataset: str) -> Response:
    """Delete a dataset that nothing hangs on (204); else archive it (200)."""
    row = find(context.session, EvaluationDataset, dataset, "dataset")
    return _gone(service.remove_dataset(context.session, row)) or context.reply(DatasetRead.of(row))


@dataset_files.put(
    "/{name}",
    status_code=201,
    response_model=UploadRead,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload_file(door: WritingDoor, request: Request, name: str) -> Response:
    """Send a file as it is, of any size; then register it: `POST /v1/datasets {"file_path": NAME}` within a day."""
    run = door.wiring.in_thread
    upload = await run(_new_upload, door, name)
    try:
        async for chunk in request.stream():
            if chunk:
                await run(upload.write, chunk)
        await run(upload.finish)
    except BaseException:
        upload.abort()
        raise
    return Response(
        UploadRead(name=name, bytes=upload.size).model_dump_json().encode(), 201, media_type="application/json"
    )


def _new_upload(door: Door, name: str) -> Upload:
    with door.open() as (_, caller):
        return Upload(door.wiring.data_root, caller.organization_id, name, door.wiring.max_upload_bytes)


@dataset_files.delete("/{name}", status_code=204)
def remove_file(context: Writer, name: str) -> Response:
    """Forget an uploaded file. A dataset that was registered from it keeps its snapshot."""
    remove_upload(context.wiring.data_root, context.organization_id, name)
    return Response(status_code=204)


@benchmarks.get("", response_model=Page[BenchmarkRead])
def list_benchmarks(
    context: Reader,
    paging: Paging,
    category: Filter = None,
    is_standard: bool | None = None,
    name: Filter = None,
    archived: bool = False,
) -> Response:
    """The organization's benchmarks and the public ones, the newest first."""
    query = _listed(select(BenchmarkSuite).options(joinedload(BenchmarkSuite.dataset)), BenchmarkSuite, name, archived)
    if category is not None:
        query = query.where(BenchmarkSuite.category == category)
    if is_standard is not None:
        query = query.where(BenchmarkSuite.is_standard == is_standard)
    sorts = {"created_at": BenchmarkSuite.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, BenchmarkSuite.id, BenchmarkRead.in_list))


@benchmarks.post("", status_code=201, response_model=BenchmarkRead)
def create_benchmark(context: Writer, new: NewBenchmark, once: Idempotent) -> Response:
    """Register a benchmark. Its prompt is tried on the dataset's first record, its scorers are built once."""

    def work() -> Response:
        suite = service.add_benchmark(context.session, context.organization_id, new, user_id=context.caller.user_id)
        return context.created(BenchmarkRead.of(suite), suite.id)

    return once.answer(context, work)


@benchmarks.get("/{benchmark:path}", response_model=BenchmarkRead)
def read_benchmark(context: Reader, benchmark: str) -> Response:
    """A benchmark by id, name (its newest version) or name@version."""
    return context.reply(BenchmarkRead.of(find(context.session, BenchmarkSuite, benchmark, "benchmark")))


@benchmarks.patch("/{benchmark:path}", response_model=BenchmarkRead)
def change_benchmark(context: Writer, benchmark: str, changes: BenchmarkChanges) -> Response:
    """Change what no result depends on."""
    row = find(context.session, BenchmarkSuite, benchmark, "benchmark")
    if row.organization_id is None:
        raise Forbidden(f"benchmark: {row.name!r} is public: only the operator changes it")
    context.session.refresh(row, with_for_update=True)
    context.check_unchanged(BenchmarkRead.of(row))
    service.change(context.session, row, changes.model_dump(include=changes.model_fields_set))
    return context.reply(BenchmarkRead.of(row))


@benchmarks.delete(
    "/{benchmark:path}", response_model=BenchmarkRead, responses={204: {"description": "Deleted: no run hung on it."}}
)
def remove_benchmark(context: Writer, benchmark: str) -> Response:
    """Delete a benchmark that no run hangs on (204); else archive it (200)."""
    row = find(context.session, BenchmarkSuite, benchmark, "benchmark")
    return _gone(service.remove_benchmark(context.session, row)) or context.reply(BenchmarkRead.of(row))
