"""Pickling of what pickle refuses."""

from typing import Any


class PicklableWrapper:
    """A callable (a lambda, a closure) that can be sent to another process; otherwise it behaves as ``obj`` itself."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_obj":  # asked for before __init__ has run: do not recurse
            raise AttributeError(name)
        return getattr(self._obj, name)
