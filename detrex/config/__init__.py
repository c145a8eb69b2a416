"""Lazy configs: find, load, override, validate and save them."""

from .lazy import apply_overrides, find_config, get_config, load_config, save_config, validate_config
from .validation import ConfigError, ConfigKeyError

__all__ = [
    "ConfigError",
    "ConfigKeyError",
    "apply_overrides",
    "find_config",
    "get_config",
    "load_config",
    "save_config",
    "validate_config",
]
