"""Every environment variable that evalservice reads, typed, in one place.

Values are read when `Settings()` is made, never at import, so that a test or a notebook can set them first.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The environment of one process."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, env_ignore_empty=True)

    home: Path = Field(default=Path("~/.evalservice"), validation_alias="EVALSERVICE_HOME")
    """Embedded Postgres, key file, snapshots."""
    secret_key: SecretStr | None = Field(default=None, validation_alias="EVALSERVICE_SECRET_KEY")
    """Encrypts provider credentials; without it a key file (mode 0600) in the home is used."""
    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    """The owner's login, postgresql://…; without it an embedded Postgres is used."""
    service_database_url: SecretStr | None = Field(default=None, validation_alias="EVALSERVICE_SERVICE_DATABASE_URL")
    """The login role evalservice_service, where roles are made by hand."""
    data_root: str | None = Field(default=None, validation_alias="EVALSERVICE_DATA_ROOT")
    """Where dataset snapshots live: a folder or any Arrow filesystem URI (s3://…, gs://…); default HOME/data."""
    ray_address: str | None = Field(default=None, validation_alias="RAY_ADDRESS")
    """An existing Ray cluster; without it a local one is started."""
    private_addresses: bool | None = Field(default=None, validation_alias="EVALSERVICE_PRIVATE_ADDRESSES")
    """Whether models may live on loopback and private networks; unset, a command may and a service may not."""
    trusted_engine_options: str = Field(default="", validation_alias="EVALSERVICE_TRUSTED_ENGINE_OPTIONS")
    """Engine options, with commas between, that models may set though they load code or files: trust_remote_code, …"""
    max_concurrent_runs: int | None = Field(default=None, ge=1, validation_alias="EVALSERVICE_MAX_CONCURRENT_RUNS")
    """How many runs a supervisor drives at once; without it 4 for each CPU of the cluster."""
    url: str | None = Field(default=None, validation_alias="EVALSERVICE_URL")
    """A running evalservice that the command line talks to."""
    api_key: SecretStr | None = Field(default=None, validation_alias="EVALSERVICE_API_KEY")

    @property
    def home_path(self) -> Path:
        """The home, absolute, `~` expanded."""
        return self.home.expanduser().absolute()

    @property
    def trusted_options(self) -> tuple[str, ...]:
        """The engine options that are the operator's elsewhere and may be set here."""
        return tuple(name for each in self.trusted_engine_options.split(",") if (name := each.strip()))

    @property
    def data_root_uri(self) -> str:
        """The data root; a local path unless it names another filesystem."""
        return self.data_root or str(self.home_path / "data")
