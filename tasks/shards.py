"""Ray's workers as a pool: a shard is a Ray task, and one whose worker is lost is done again by another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from labline.engine import Engine
from labline.errors import LablineError
from labline.sharding import Pool
from tasks.cluster import cluster_processors, joined

P = ParamSpec("P")
Result = TypeVar("Result")

RETRIES = 3  # of a shard whose worker dies


@contextmanager
def pool_of(engine: Engine) -> Iterator[Pool | None]:
    """All processors of the engine's cluster, as long as the context lasts; None where everything is local.

    Raises BadInput where Ray is not installed and where no cluster answers.
    """
    if engine.kind == "local":
        yield None
        return
    with joined(engine), RayExecutor() as executor:
        yield Pool(executor, max(1, int(cluster_processors())))


class RayExecutor(Executor):
    """Runs functions of modules as Ray tasks, each on one processor, on the cluster that was joined.

    A future raises what its function raised, or BrokenExecutor where its worker was lost again and again. The context
    ends with what is under way abandoned: who leaves it has waited for what they want, or wants no more of it.
    """

    def __init__(self) -> None:
        import ray

        self._call = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        self._cancel = partial(ray.cancel, force=True)
        self._running: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[P, Result], /, *given: P.args, **named: P.kwargs) -> Future[Result]:
        """Have a worker call the function."""
        future: Future[Result] = Future()
        reference = self._call.remote(function, given, named)
        self._running[future] = reference
        future.add_done_callback(self._running.pop)
        reference.future().add_done_callback(partial(_settle, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Abandon what is under way."""
        for reference in list(self._running.values()):
            self._cancel(reference)


def _call(function: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    return function(*given, **named)


def _settle(future: Future[Any], done: Future[Any]) -> None:
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(_as_raised(error))


def _as_raised(error: BaseException) -> BaseException:
    """What the function raised, without what Ray put around it; or what became of its worker."""
    from ray.exceptions import RayError, RaySystemError, RayTaskError

    if isinstance(error, RayTaskError):
        error = error.cause
    if isinstance(error, RaySystemError):
        reason = str(error).partition("\n")[0].removeprefix("System error: ")
        return LablineError(
            f"A worker of the Ray cluster cannot take up its work: {reason}. Every machine of the cluster needs the "
            "same labline, and your own modules, as the one that runs this command."
        )
    return BrokenExecutor(str(error)) if isinstance(error, RayError) else error
