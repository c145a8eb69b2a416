"""Lazy configs: find, load, override, validate and save them."""

from .lazy import (
    apply_overrides,
    find_config,
    get_config,
    load_config,
    load_run_config,
    register_loader,
    save_config,
    validate_config,
)
from .tree import ConfigError, ConfigKeyError

__all__ = [
    "ConfigError",
    "ConfigKeyError",
    "apply_overrides",
    "find_config",
    "get_config",
    "load_config",
    "load_run_config",
    "register_loader",
    "save_config",
    "validate_config",
]
