"""From a run in the database to the plan of its workers, and what can be checked before it is made. Knows no Ray."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from sqlalchemy.orm import Session

from actors.engines import check_files, check_files_seen, check_here, check_options
from actors.limiter import Limits
from actors.plan import RunPlan
from actors.providers import base_url_of, hosted_platforms, wire_format
from cluster.runtime import Platform
from evalservice.addresses import check_base_url, is_refused
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.model_config import BASE_URLS, ENGINES, ModelConfig
from evalservice.catalog.prompts import PromptRenderer
from evalservice.catalog.tools import check_choice
from evalservice.errors import InvalidInput, ProviderUnreachable
from evalservice.organizations.secrets import origin_of
from evalservice.organizations.service import open_credential
from evalservice.pricing import Price
from evalservice.runs.completion_cache import SETTING as COMPLETION_CACHE
from evalservice.runs.service import run_config
from evalservice.runs.spending import has_budget
from evalservice.settings import Settings
from evalservice.tables import BenchmarkSuite, EvaluationDataset, EvaluationRun, Model, ProviderCredential

DEFAULT_CONCURRENCY = 64
CONNECT_SECONDS = 5.0


def plan_of(platform: Platform, session: Session, run: EvaluationRun) -> RunPlan:
    """What the run's workers need.

    Raises Conflict when the model's credential cannot be decrypted here, InvalidInput when its budget cannot be held.
    """
    model = session.get_one(Model, run.model_id)
    dataset = session.get_one(EvaluationDataset, run.dataset_id)
    criteria = EvaluationCriteria.model_validate(run.provenance["criteria"])
    config = run_config(model, criteria, ModelConfig.parse("config", run.model_config))
    private = platform.settings.private_addresses is not False
    if model.base_url:
        check_base_url(model.base_url, private=private)
    key = None
    if model.credential_id is not None:
        origin = origin_of(model.base_url or base_url_of(model.platform))
        key = open_credential(session, platform.box, run.organization_id, model.credential_id, origin)
    price = None
    limits = credential_limits(session, model)
    if model.input_price_per_million is not None and model.output_price_per_million is not None:
        price = Price(model.input_price_per_million, model.output_price_per_million)
    return RunPlan(
        run_id=str(run.id),
        title=f"{model.name} × {run.provenance['benchmark']['name']}",
        snapshot_uri=dataset.snapshot_uri,
        criteria=run.provenance["criteria"],
        platform=model.platform,
        model_id=model.platform_model_id,
        concurrency=int(run.evaluation_config.get("max_concurrency", DEFAULT_CONCURRENCY)),
        base_url=model.base_url,
        api_key=key,
        price=price,
        config=config.set_values(),
        seed=criteria.seed,
        total=run.total_test_cases,
        private_addresses=private,
        credential=f"{run.organization_id}:{model.credential_id or model.base_url or model.platform}",
        credential_limits=limits,
        model_limits=Limits(config.requests_per_minute, config.tokens_per_minute),
        model_version=model.version,
        cache=run.evaluation_config.get(COMPLETION_CACHE, "off"),
        budgeted=has_budget(session, run, model, config),
        trusted=platform.settings.trusted_options,
    )


def credential_limits(session: Session, model: Model) -> Limits:
    """What a model's credential allows whoever uses it."""
    row = session.get(ProviderCredential, model.credential_id) if model.credential_id is not None else None
    return Limits() if row is None else Limits(row.requests_per_minute, row.tokens_per_minute)


def check_new_model(platform: str, config: ModelConfig) -> None:
    """Raises InvalidInput for a sampling parameter that a hosted platform does not take. Others are not known yet."""
    if platform in hosted_platforms():
        wire_format(platform).check(config.sampling())


def default_base_urls() -> dict[str, str]:
    """Every platform that can be called here, and where its models are that name no URL ("": it loads weights)."""
    return {**{platform: _default(platform) for platform in hosted_platforms()}, **dict.fromkeys(ENGINES, "")}


def _default(platform: str) -> str:
    try:
        return base_url_of(platform)
    except InvalidInput:  # a plug-in that does not load: whoever uses it is told why
        return ""


def check_new_run(settings: Settings, model: Model, benchmark: BenchmarkSuite, own: ModelConfig) -> None:
    """Refuse early what cannot work: nobody listens at the model's address, its engine, files or options are not what
    they should be, its platform does not take a parameter, or it has no system prompt and the benchmark one.

    Raises ProviderUnreachable, EngineUnavailable, InvalidInput.
    """
    criteria = EvaluationCriteria.model_validate(benchmark.evaluation_criteria)
    config = run_config(model, criteria, own)
    if config.system_prompt is False and PromptRenderer(criteria).has_system_prompt:
        accepted = f"one without a system prompt: model {model.name!r} has none (config.system_prompt: false)"
        raise InvalidInput("benchmark", benchmark.name, accepted)
    check_choice(config.sampling())
    if model.platform in ENGINES:
        _check_engine(settings, model, config)
        return
    if criteria.likelihood is not None:
        accepted = (
            "a model of platform vllm or transformers: chat completions do not tell the likelihood of a given text; "
            'or a benchmark whose multiple_choice has the mode "answer"'
        )
        raise InvalidInput("model", model.name, accepted)
    wire_format(model.platform).check(config.sampling())
    url = model.base_url or base_url_of(model.platform)
    if not model.base_url and model.credential_id is None and model.platform in BASE_URLS:
        raise InvalidInput("model", model.name, f"a model with a key for {url}: give it one with `credential_id`")
    if settings.ray_address:
        return  # the cluster's network is not this machine's
    from actors.providers.connection import environment_proxy  # not at the top: an HTTP client takes a while to load

    origin = urlsplit(origin_of(environment_proxy(url) or url))
    assert origin.hostname is not None
    try:
        _connect(origin.hostname, origin.port or 443, private=settings.private_addresses is not False)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ProviderUnreachable(
            f"base_url: {url!r} of model {model.name!r} does not answer ({reason}): "
            "start the server, or correct the address"
        ) from None


def _check_engine(settings: Settings, model: Model, config: ModelConfig) -> None:
    engine = config.engine or {}
    check_options(model.platform, engine, config.sampling(), settings.trusted_options)
    if settings.ray_address:  # the workers have the engine, and may have folders that this machine has not
        check_files_seen(model.platform, model.platform_model_id, engine)
    else:
        check_here(model.platform)
        check_files(model.platform, model.platform_model_id, engine)


def _connect(host: str, port: int, *, private: bool) -> None:
    """Raises OSError when nobody answers, or only at addresses that are not reached."""
    found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = [str(address) for address in found if not is_refused(str(address), private=private)]
    failure = OSError("it resolves only to addresses that are not reached")
    for address in allowed:
        try:
            socket.create_connection((address, port), CONNECT_SECONDS).close()
            return
        except OSError as error:
            failure = error
    raise failure
