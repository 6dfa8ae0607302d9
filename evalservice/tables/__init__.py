"""Every table as a typed SQLAlchemy class, one module per feature. `docs/data-model.md` says what each column is for.

A class has the seed's name (`Model`, `EvaluationRun`), a table its `db_table`. The column `metadata` is the attribute
`metadata_`. Many-to-many relationships are read-only: their rows are written through the link classes, which carry
`organization_id`.
"""

from evalservice.tables.base import MONEY, Base, new_id
from evalservice.tables.catalog import (
    BENCHMARK_CATEGORIES,
    FILE_FORMATS,
    MODEL_STATUSES,
    BenchmarkSuite,
    EvaluationDataset,
    Model,
    ModelCapability,
    ModelCapabilityLink,
)
from evalservice.tables.comparisons import (
    AB_TEST_STATUSES,
    EXPERIMENT_STATUSES,
    ABTest,
    ABTestModel,
    ABTestRun,
    Experiment,
    ExperimentRun,
    ExperimentRunEvaluation,
    ExperimentTemplate,
)
from evalservice.tables.metrics import METRIC_TYPES, PERIOD_TYPES, MetricAggregation, MetricRollupDue, ModelMetric
from evalservice.tables.organizations import (
    DEFAULT_ORGANIZATION_ID,
    LOCAL_USER_ID,
    ROLES,
    ApiKey,
    DailySpend,
    IdempotencyKey,
    Membership,
    Organization,
    ProviderCredential,
    User,
)
from evalservice.tables.regressions import CHECK_OUTCOMES, RegressionAlert, RegressionCheck
from evalservice.tables.runs import RUN_STATUSES, CompletionCacheEntry, EvaluationResult, EvaluationRun
from evalservice.tables.selection import (
    POLICY_STATUSES,
    ModelSelectionLog,
    SelectionBelief,
    SelectionBreaker,
    SelectionOutcome,
    SelectionPolicy,
    SelectionTrial,
)
from evalservice.tables.webhooks import DELIVERY_STATUSES, Webhook, WebhookDelivery

metadata = Base.metadata
"""What migrations are compared with."""

__all__ = [
    "AB_TEST_STATUSES",
    "BENCHMARK_CATEGORIES",
    "CHECK_OUTCOMES",
    "DEFAULT_ORGANIZATION_ID",
    "DELIVERY_STATUSES",
    "EXPERIMENT_STATUSES",
    "FILE_FORMATS",
    "LOCAL_USER_ID",
    "METRIC_TYPES",
    "MODEL_STATUSES",
    "MONEY",
    "PERIOD_TYPES",
    "POLICY_STATUSES",
    "ROLES",
    "RUN_STATUSES",
    "ABTest",
    "ABTestModel",
    "ABTestRun",
    "ApiKey",
    "Base",
    "BenchmarkSuite",
    "CompletionCacheEntry",
    "DailySpend",
    "EvaluationDataset",
    "EvaluationResult",
    "EvaluationRun",
    "Experiment",
    "ExperimentRun",
    "ExperimentRunEvaluation",
    "ExperimentTemplate",
    "IdempotencyKey",
    "Membership",
    "MetricAggregation",
    "MetricRollupDue",
    "Model",
    "ModelCapability",
    "ModelCapabilityLink",
    "ModelMetric",
    "ModelSelectionLog",
    "Organization",
    "ProviderCredential",
    "RegressionAlert",
    "RegressionCheck",
    "SelectionBelief",
    "SelectionBreaker",
    "SelectionOutcome",
    "SelectionPolicy",
    "SelectionTrial",
    "User",
    "Webhook",
    "WebhookDelivery",
    "metadata",
    "new_id",
]
