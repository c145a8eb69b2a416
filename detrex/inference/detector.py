"""A trained model ready for use, by the very path that the evaluation takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

import detrex.compat  # noqa: F401 - lets configs of the original detrex load
from detrex.checkpoint import SECTIONS, Checkpointer, CheckpointError, files_of, read_metadata, resolve_checkpoint
from detrex.config import ConfigError, apply_overrides, load_config
from detrex.config.instantiation import build_on_meta
from detrex.config.serialization import from_plain
from detrex.data import DetrDatasetMapper, category_ids, prepare_data
from detrex.data.class_names import known_classes, same_classes
from detrex.distributed.devices import resolve_device

from .detections import Detections
from .inputs import InputImage, is_stream, read_image_input, read_stream
from .optimizations import OPTIMIZATIONS, optimize_model, parse_optimizations

__all__ = ["Detector"]

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MORE_PARAMETERS = 1 << 24  # than bytes of the file, for a config within it


class Detector:
    """A model in evaluation mode with the test data's own resizing.

    With one image at a time in float32, the default, boxes and scores equal those of the evaluation, to the last digit
    (of ``dataloader.test`` with a batch of one, on the same device).

    Args:
        model: ``model(list[dict]) -> [{"instances": Instances}]``; put into evaluation mode.
        mapper: of the test loader: resizing and the order of channels.
        class_names: in the order of the class ids; () where they are not known.
        category_ids: of the data set, in the same order; () where they are not known.
        dtype: "float32", or "bfloat16" or "float16" for autocast. Boxes and scores stay float32.

    Raises:
        ValueError: another ``dtype``.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        mapper: DetrDatasetMapper,
        class_names: Sequence[str] = (),
        category_ids: Sequence[int] = (),
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
        self.model = model.eval()
        self.mapper = mapper
        self.class_names, self.category_ids = tuple(class_names), tuple(category_ids)
        self.dtype = DTYPES[dtype]

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        config_file: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
        device: str | None = None,
        dtype: str = "float32",
        allow: Sequence[str] = (),
    ) -> Detector:
        """A detector from a file that training wrote; it holds its config and class names.

        The file runs no code: what its config may call is listed in ``detrex.config.serialization.ALLOWED``. A
        ``config_file``, though, is a program.

        Args:
            path: whatever ``resolve_checkpoint`` takes: a path, a URL, ``hf://organisation/name``; "~" is expanded.
            config_file: used instead of the config in the file; needed for files of other projects.
            overrides: of the config, such as ``["model.num_select=100"]``.
            class_names: instead of those in the file, in the order of its class ids. The file's own names in another
                order are matched by name: the ids stay those of the file.
            device: "cpu", "cuda", "cuda:1" or "auto", the GPU if there is one; None takes ``train.device`` of a
                ``config_file``, else "auto".
            dtype: "float32", "bfloat16" or "float16".
            allow: packages or names that the config in the file may call as well, such as ``["my_project"]``.

        Raises:
            CheckpointError: no such file, it does not fit the model, or it has no config and none is given.
            ConfigError: a config or override that is wrong, or a config in the file that calls what is not allowed.
            DatasetError: only the data of ``config_file`` know the class names, and cannot be read.
            ValueError: another ``dtype``, or class names of another number than the model has.
        """
        path = os.path.expanduser(path)
        metadata = read_metadata(resolve_checkpoint(path))
        if config_file is not None:
            config_file = os.path.expanduser(config_file)
            return cls._build(load_config(config_file, overrides), path, metadata, class_names, device, dtype)
        cfg = apply_overrides(_config_within(metadata, path, allow), overrides)
        _check_buildable(cfg, path)
        names, rows = class_names or metadata["class_names"], OmegaConf.select(cfg, "model.num_classes")
        if names and rows not in (None, len(names)):
            raise ValueError(f"{len(names)} class names, but the model in {path} has num_classes={rows}")
        return cls._build(cfg, path, metadata, class_names, device, dtype)

    @classmethod
    def from_config(cls, cfg: DictConfig, path: str | os.PathLike[str], *, device: str | None = None) -> Detector:
        """A detector with the model of a config, which may be changed, and the weights at ``path``; else as above."""
        return cls._build(cfg, path, read_metadata(resolve_checkpoint(path)), None, device, "float32")

    @classmethod
    def _build(
        cls,
        cfg: DictConfig,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        given_names: Sequence[str] | None,
        device: str | None,
        dtype: str,
    ) -> Detector:
        names, ids = _classes(cfg, metadata, given_names)
        if names and "num_classes" in cfg.model.keys():
            OmegaConf.update(cfg, "model.num_classes", len(names))
        device = device or OmegaConf.select(cfg, "train.device") or "auto"
        model = instantiate(cfg.model).to(resolve_device(device))
        Checkpointer(model).load(os.fspath(path))
        optimizations = OmegaConf.select(cfg, "train.optimizations.evaluation", default="all")
        model = optimize_model(model, parse_optimizations(optimizations, OPTIMIZATIONS))
        mapper = instantiate(cfg.dataloader.test.mapper)
        return cls(model=model, mapper=mapper, class_names=names, category_ids=ids, dtype=dtype)

    def predict(
        self, source: Any, *, threshold: float = 0.3, batch_size: int = 1
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Detect on whatever there is.

        Args:
            source: an image: a path, a PIL image or an RGB array (H, W, 3) uint8; a list of such, of any sizes; the
                path of a folder or of a video. "~" in paths is expanded.
            threshold: lowest score; 0 returns all that the model returns.
            batch_size: images of a list, folder or video that go through the model at once. An image's detections do
                not depend on its neighbours beyond rounding.

        Returns:
            For an image its detections, for a list a list of these. For a folder (its images by name, without hidden
            ones) or a video (its frames) an iterator that works as it is asked, so that memory holds one batch at a
            time. Images of a folder that cannot be read are logged and skipped.

        Raises:
            OSError: a file that cannot be read; of a folder, if no image can be. TypeError: another kind of source.
            ValueError: an array of another kind, a ``batch_size`` below 1, a video without the package av.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be 1 or more")
        source = _expanded(source)
        if is_stream(source):
            return self._detect_all(read_stream(source), threshold, batch_size)
        if isinstance(source, (list, tuple)):
            return list(self._detect_all(map(read_image_input, map(_expanded, source)), threshold, batch_size))
        return self._detect([read_image_input(source)], threshold)[0]

    def _detect_all(self, pictures: Iterable[InputImage], threshold: float, batch_size: int) -> Iterator[Detections]:
        pictures = iter(pictures)
        while batch := list(islice(pictures, batch_size)):
            yield from self._detect(batch, threshold)

    @torch.no_grad()
    def _detect(self, pictures: Sequence[InputImage], threshold: float) -> list[Detections]:
        inputs = [self.mapper.map_image(self._channels(picture.image)) for picture in pictures]
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.model(inputs)
        found = []
        for picture, output in zip(pictures, outputs, strict=True):
            instances = output["instances"].to("cpu")
            detections = Detections(
                instances.image_size,
                image=picture.file if picture.file is not None and picture.frame is None else picture.image,
                class_names=self.class_names,
                category_ids=self.category_ids,
                file=picture.file,
                frame=picture.frame,
                **instances.get_fields(),
            )
            found.append(detections[detections.scores >= threshold])
        return found

    def _channels(self, image: np.ndarray) -> np.ndarray:
        return image if self.mapper.img_format == "RGB" else np.ascontiguousarray(image[..., ::-1])


def _expanded(source: Any) -> Any:
    return os.path.expanduser(source) if isinstance(source, (str, os.PathLike)) else source


def _config_within(metadata: Mapping[str, Any], path: str | os.PathLike[str], allow: Sequence[str]) -> DictConfig:
    plain = metadata["config"]
    if plain is None:
        raise CheckpointError(
            f"checkpoint {path} holds no config: give that of its model as config_file (--config-file), for a file of "
            "a training the config.yaml beside it"
        )
    try:
        cfg = from_plain(plain, allow=allow)
    except ConfigError as e:
        raise ConfigError(f"checkpoint {path}: the config in it: {e}") from e
    try:
        absent = [key for key in SECTIONS if OmegaConf.select(cfg, key) is None]
    except OmegaConfBaseException as e:  # a list or a number where a section belongs
        raise CheckpointError(f"checkpoint {path}: the config in it has no such sections: {str(e)[:200]}") from e
    if absent:
        raise CheckpointError(f"checkpoint {path}: the config in it has no {', '.join(absent)}")
    return cfg


def _check_buildable(cfg: DictConfig, path: str | os.PathLike[str]) -> None:
    """Refuse a config within a file that makes no detector, or one of far more parameters than the file can hold."""
    try:
        parameters = sum(parameter.numel() for parameter in build_on_meta(cfg).parameters())
        instantiate(cfg.dataloader.test.mapper)
    except Exception as e:  # values of any kind reach any class
        raise CheckpointError(
            f"checkpoint {path}: the config in it makes no detector: {type(e).__name__}: {str(e)[:300]}"
        ) from e
    size = sum(map(os.path.getsize, files_of(resolve_checkpoint(path))))
    if parameters > size + MORE_PARAMETERS:
        raise CheckpointError(
            f"checkpoint {path}: the config in it makes a model of {parameters} parameters, the file has {size} bytes"
        )


def _classes(cfg: DictConfig, metadata: Mapping[str, Any], given: Sequence[str] | None) -> tuple[Any, Any]:
    """Class names and category ids: as given, else from the checkpoint, else from the data of the config."""
    names, ids = metadata["class_names"], metadata["category_ids"]
    if given and list(given) != list(names) and same_classes(given, names):
        logger.warning("The class names given are the checkpoint's in another order; its own order holds")
        given = None
    if not (given or names):
        if OmegaConf.select(cfg, "dataloader.data") is not None:
            test_name = prepare_data(cfg, train=False).test_name
        else:
            test_name = OmegaConf.select(cfg, "dataloader.test.dataset.names")
        if isinstance(test_name, str):
            names, ids = known_classes(test_name), category_ids(test_name)
    names = tuple(given or names)
    return names, ids if len(ids) == len(names) else ()
