"""The loop of steps, and the hooks around them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detectron2.utils.events import EventStorage

# One name for all of the loop, whichever file a part of it is in.
logger = logging.getLogger("detectron2.engine.train_loop")


class HookBase:
    """Something to do at certain points of training, where ``self.trainer`` is the trainer.

    A step calls, for all hooks in the order of their registration, ``before_step``, then the forward and backward
    passes, ``after_backward``, the optimizer, and ``after_step``. What takes time belongs into ``after_step``: timers
    count from ``before_step`` on.
    """

    trainer: TrainerBase = None  # a weak reference, set by register_hooks

    def before_train(self) -> None:
        """Before the first step."""

    def after_train(self) -> None:
        """After the last step, also if training failed: then ``trainer.iter < trainer.max_iter``."""

    def before_step(self) -> None:
        """Before each step."""

    def after_backward(self) -> None:
        """Between the backward pass and the step of the optimizer."""

    def after_step(self) -> None:
        """After each step."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the hook; one that returns something implements ``load_state_dict(state)`` too."""
        return {}


class TrainerBase:
    """A loop of steps, with hooks around them.

    Attributes:
        iter: the current iteration; ``max_iter`` once training has succeeded.
        start_iter, max_iter: the first iteration, and the one after the last.
        storage: the EventStorage in use during training.
    """

    start_iter: int
    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks; None stands for a hook that is not wanted.

        Raises:
            TypeError: something else than a HookBase.
        """
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"A hook must be a HookBase, got {hook!r}")
            hook.trainer = weakref.proxy(self)  # no reference cycle, so that a trainer is freed when dropped
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the steps ``start_iter`` to ``max_iter - 1``."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max_iter
            except Exception:
                logger.exception("Training stopped at iteration %d", self.iter)
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One step of training."""
        raise NotImplementedError

    def _named_hooks(self) -> Iterator[tuple[str, HookBase]]:
        """Hooks with their key in checkpoints: the class name, numbered from the second of a class on."""
        counts: dict[str, int] = {}
        for hook in self._hooks:
            name = type(hook).__qualname__
            counts[name] = counts.get(name, 0) + 1
            yield (name if counts[name] == 1 else f"{name}#{counts[name]}"), hook

    def state_dict(self) -> dict[str, Any]:
        """``{"iteration": ..., "hooks": {name: state}}``, hooks without state left out."""
        states = {name: state for name, hook in self._named_hooks() if (state := hook.state_dict())}
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the iteration, and the state of every hook that is registered."""
        self.iter = state_dict["iteration"]
        hooks = dict(self._named_hooks())
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logger.warning("Cannot find the hook %r, its state_dict is ignored.", name)
