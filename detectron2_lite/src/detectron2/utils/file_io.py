"""File access through iopath: local paths, ``http(s)://`` and ``detectron2://``."""

from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, OneDrivePathHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

# An instance of its own: handlers registered here do not leak into other libraries, nor theirs into ours.
PathManager = _PathManager()


class Detectron2Handler(PathHandler):
    """``detectron2://x`` names the file x of the public detectron2 bucket; downloads are cached by iopath."""

    PREFIX = "detectron2://"
    BUCKET = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _url(self, path: str) -> str:
        return self.BUCKET + path.removeprefix(self.PREFIX)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._url(path), force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(self._url(path), mode, buffering=buffering, **kwargs)


for _handler in (HTTPURLHandler(), OneDrivePathHandler(), Detectron2Handler()):
    PathManager.register_handler(_handler)
