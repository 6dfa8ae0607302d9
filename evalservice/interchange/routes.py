"""`/v1/imports`: logs of other tools become runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fastapi import APIRouter, Response

from evalservice.catalog.uploads import opened_upload
from evalservice.errors import InvalidInput
from evalservice.interchange.importing import Asked, Importer, import_log
from evalservice.interchange.records import LogFiles
from evalservice.interchange.schemas import ImportBody, ImportRead
from evalservice.runs.schemas import RunRead
from evalservice.web.context import Context, TenantRoute, Writer
from evalservice.web.idempotency import Idempotent

imports = APIRouter(prefix="/imports", tags=["imports"], route_class=TenantRoute)


@imports.post(
    "",
    status_code=201,
    response_model=ImportRead,
    responses={200: {"model": ImportRead, "description": "It had been imported before: its runs."}},
)
def import_(context: Writer, new: ImportBody, once: Idempotent) -> Response:
    """Import a log whose files were uploaded: a completed run for each of its tasks, all of them or none."""

    def work() -> Response:
        importer = Importer(context.session, context.wiring.data_root, context.organization_id, context.caller.user_id)
        asked = Asked(new.format, new.model, new.benchmark, new.dataset, new.force)
        with _files(context, new) as log:
            imported = import_log(importer, log, asked)
        document = ImportRead(
            runs=[RunRead.of(run) for run in imported.runs], already_imported=imported.known, notes=list(imported.notes)
        )
        return context.reply(document, 200 if imported.known else 201)

    return once.answer(context, work)


@contextmanager
def _files(context: Context, new: ImportBody) -> Iterator[LogFiles]:
    """The uploaded files under their tool's names; for who may read this machine's files anyway, those."""
    paths: dict[str, Path] = {}
    with ExitStack() as opened:
        for file in new.files:
            if file.name in paths:
                raise InvalidInput("files", file.name, "each file once")
            if context.wiring.local_files:
                paths[file.name] = Path(file.file_path)
            else:
                upload = opened_upload(context.wiring.data_root, context.organization_id, file.file_path)
                paths[file.name] = opened.enter_context(upload)
        yield LogFiles(new.files[0].name, paths)
