"""The checkpointer of detection models."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer, _IncompatibleKeys, _strip_prefix_if_present
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ._files import load_pickle, load_torch
from .c2_model_loading import align_and_update_state_dicts


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer, which also reads model zoo files and files that only the main process can see.

    Formats, by extension: .pkl (detectron2's model zoo, or Caffe2 backbones), .pyth (pycls), .safetensors, and torch
    files otherwise, of ``{"model": ...}`` or a bare state dict. ``<path>?matching_heuristics=True`` matches names by
    :func:`align_and_update_state_dicts`, as the model zoo formats always do. Files are read without running code.

    Args:
        model: the model; a DistributedDataParallel is unwrapped.
        save_dir: where to save, and to look for ``last_checkpoint``.
        save_to_disk: by default on rank 0 only.
        checkpointables: further objects with ``state_dict`` and ``load_state_dict``, by their key in the file.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._distributed = isinstance(model, DistributedDataParallel)
        self._options: dict[str, list[str]] = {}  # of the path being loaded

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables.

        With a model in DistributedDataParallel all processes call this together, and those without the file get the
        contents from rank 0.

        Args:
            path: a path or URL known to PathManager, with options after "?"; "" loads nothing.
            checkpointables: which of them to load; all by default.

        Returns:
            What else is in the file.

        Raises:
            ValueError: an option other than ``matching_heuristics``.
            FileNotFoundError: the file does not exist (on rank 0).
            pickle.UnpicklingError: see :func:`load_torch` and :func:`load_pickle`.
        """
        if not path:
            return super().load(path, checkpointables)
        filename, _, query = path.partition("?")
        options = parse_qs(query, keep_blank_values=True)
        if set(options) - {"matching_heuristics"}:
            raise ValueError(f"Unsupported options in checkpoint path {path!r}: only matching_heuristics is known.")
        self._options = options
        try:
            with self._local_file(filename) as local:
                return super().load(local, checkpointables)
        finally:
            self._options = {}

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last checkpoint in ``save_dir`` with all checkpointables, or else the model alone from ``path``.

        With a model in DistributedDataParallel, rank 0 decides which for all processes.
        """
        if not (resume and self._distributed):
            return super().resume_or_load(path, resume=resume)
        latest = comm.all_gather(self.get_checkpoint_file() if self.has_checkpoint() else "")[0]
        return self.load(latest) if latest else self.load(path, checkpointables=[])

    @contextlib.contextmanager
    def _local_file(self, filename: str) -> Iterator[str]:
        local = self.path_manager.get_local_path(filename)
        exists = os.path.isfile(local)
        everywhere = comm.all_gather(exists) if self._distributed else [exists]
        if not everywhere[0]:
            raise FileNotFoundError(f"Checkpoint {filename} not found.")
        if all(everywhere):
            yield local
            return
        missing = [rank for rank, found in enumerate(everywhere) if not found]
        self.logger.warning("Ranks %s cannot read %s; they get it from rank 0.", missing, filename)
        with tempfile.TemporaryDirectory() as folder:
            # All ranks load the same bytes, even where another file of that name exists.
            content = comm.broadcast(Path(local).read_bytes() if comm.is_main_process() else None)
            copy = Path(folder, os.path.basename(local))
            copy.write_bytes(content)
            yield str(copy)

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = self._read_file(filename)
        if self._options.get("matching_heuristics") == ["True"]:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _read_file(self, filename: str) -> dict[str, Any]:
        extension = os.path.splitext(filename)[1]
        if extension == ".pkl":
            data = load_pickle(filename)
            if "model" in data and "__author__" in data:
                self.logger.info("Reading a file from '%s'", data["__author__"])
                return data
            weights = {key: value for key, value in data.get("blobs", data).items() if not key.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        if extension == ".pyth":
            data = load_torch(filename)
            if "model_state" not in data:
                raise KeyError(f"{filename} is not a pycls checkpoint: it has no 'model_state'.")
            weights = {k: v for k, v in data["model_state"].items() if not k.endswith("num_batches_tracked")}
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        if extension == ".safetensors":
            from safetensors.torch import load_file

            return {"model": load_file(filename)}
        data = self._torch_load(filename)
        return data if "model" in data else {"model": data}

    def _torch_load(self, f: str) -> dict[str, Any]:
        return load_torch(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        state = checkpoint["model"]
        self._convert_ndarray_to_tensor(state)
        _strip_prefix_if_present(state, "module.")
        by_suffix = checkpoint.get("matching_heuristics", False)
        _adapt(self.model, state, by_suffix=by_suffix)
        if by_suffix:
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(), state, c2_conversion=checkpoint.get("__author__") == "Caffe2"
            )
        incompatible = super()._load_model(checkpoint)
        # Old files lack these two; the config has set them.
        configured = {"pixel_mean", "pixel_std"} & dict(self.model.named_buffers(recurse=False)).keys()
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in configured]
        return incompatible


def _adapt(model: nn.Module, state: dict[str, Any], *, by_suffix: bool) -> None:
    """Let the modules with ``adapt_state_dict`` reshape their tensors in place, before other shapes are dropped.

    With ``by_suffix`` a module's names in the file may lack leading components, as in name matching.
    """
    for path, module in model.named_modules():
        if not hasattr(module, "adapt_state_dict"):
            continue
        prefix = f"{path}." if path else ""
        while by_suffix and prefix and not any(key.startswith(prefix) for key in state):
            prefix = prefix.partition(".")[2]
        module.adapt_state_dict(state, prefix)
