"""The shared lazy configs: data, optimizers, schedules and training options that other projects start from."""

from .model_zoo import get_config, get_config_file
