"""Detection on images outside a data set, by the very path that the evaluation takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from torch import nn

from detrex.checkpoint import Checkpointer, class_names, read_checkpoint, resolve_checkpoint
from detrex.data import DetrDatasetMapper, prepare_data

from .accelerate import LEVERS, accelerate, parse_levers
from .setup import resolve_device

__all__ = ["Predictor", "instances_to_records"]


class Predictor:
    """A model in evaluation mode with the test loader's own mapper, one image at a time.

    The boxes of an image equal those that ``inference_on_dataset`` gets for it with a batch of one, to the last digit.

    Args:
        model: ``model(list[dict]) -> [{"instances": Instances}]``; put into evaluation mode.
        mapper: of the test loader: resizing and the order of channels.
        class_names: in the order of the class ids; () where they are not known.
    """

    def __init__(self, *, model: nn.Module, mapper: DetrDatasetMapper, class_names: Sequence[str] = ()) -> None:
        self.model = model.eval()
        self.mapper = mapper
        self.class_names = tuple(class_names)

    @classmethod
    def from_config(cls, cfg: DictConfig, weights: str) -> Predictor:
        """Build the model of ``cfg`` on ``cfg.train.device`` and load ``weights`` (path or URL).

        Class names, and with them ``cfg.model.num_classes``, come from the checkpoint where it knows them; else from
        the validation data of the config.

        Raises:
            CheckpointError: no such file, or it does not fit the model.
            DatasetError: the checkpoint has no class names and the data that would tell them cannot be read.
        """
        names = class_names(read_checkpoint(resolve_checkpoint(weights)))
        if names:
            OmegaConf.update(cfg, "model.num_classes", len(names))
        elif OmegaConf.select(cfg, "dataloader.data") is not None:
            names = prepare_data(cfg, train=False).class_names
        else:
            test_name = OmegaConf.select(cfg, "dataloader.test.dataset.names")
            names = MetadataCatalog.get(test_name).get("thing_classes", ()) if isinstance(test_name, str) else ()
        model = instantiate(cfg.model).to(resolve_device(cfg.train.device))
        Checkpointer(model).load(weights)
        model = accelerate(model, parse_levers(cfg.train.accelerate.evaluation, LEVERS))
        return cls(model=model, mapper=instantiate(cfg.dataloader.test.mapper), class_names=names)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Instances:
        """Detect on one image.

        Args:
            image: (H, W, 3) uint8 RGB, as ``detrex.data.read_image`` gives it.

        Returns:
            On the CPU: ``pred_boxes`` (xyxy in pixels of ``image``), ``scores`` (descending) and ``pred_classes``.
        """
        channels = image if self.mapper.img_format == "RGB" else np.ascontiguousarray(image[..., ::-1])
        return self.model([self.mapper.map_image(channels)])[0]["instances"].to("cpu")

    def name(self, class_id: int) -> str:
        """Name of a class; "class 7" where it is not known."""
        return self.class_names[class_id] if class_id < len(self.class_names) else f"class {class_id}"


def instances_to_records(instances: Instances, predictor: Predictor, threshold: float = 0.0) -> list[dict[str, Any]]:
    """Detections with a score of at least ``threshold`` as plain values, ready for json.

    Returns:
        For each ``{"box": [x1, y1, x2, y2], "score", "category_id" (contiguous, from 0), "category_name"}``.
    """
    boxes, scores, classes = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
    return [
        {"box": box, "score": score, "category_id": class_id, "category_name": predictor.name(class_id)}
        for box, score, class_id in zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True)
        if score >= threshold
    ]
