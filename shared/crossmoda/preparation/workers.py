"""Running one function over many cases, in processes that a crash or a kill of one does not take along."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from tqdm import tqdm

Mapper = Callable[[Callable[[Any], Any], Sequence[Any], str], list[Any]]


def run_all(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    description: str,
    jobs: int = 1,
    progress: bool = True,
    on_lost: Callable[[Any], Any] = lambda task: None,
) -> list[Any]:
    """Map a function over tasks, with a bar that tells the time left.

    Args:
        function: a module's function.
        tasks: its arguments, picklable.
        description: the bar's.
        jobs: processes of one thread each; 1 works in this one.
        progress: whether to show the bar.
        on_lost: gives the result of a task whose process was killed (by the system, when memory runs out).

    Returns:
        The results, in the order of the tasks.
    """
    results: dict[int, Any] = {}
    with tqdm(total=len(tasks), desc=description, unit="case", disable=not progress or not tasks) as bar:
        for index, result in _results(function, tasks, min(jobs, len(tasks)), on_lost):
            results[index] = result
            bar.update()
    return [results[index] for index in range(len(tasks))]


def _results(
    function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, on_lost: Callable[[Any], Any]
) -> Iterator[tuple[int, Any]]:
    if jobs <= 1:
        single_thread()
        for index, task in enumerate(tasks):
            yield index, function(task)
        return
    # A fork server that has loaded the libraries: plain forks would inherit threads that don't run there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crossmoda.preparation.case"])
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=single_thread) as pool:
        futures = {pool.submit(function, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                index = futures[future]
                try:
                    result = future.result()
                except BrokenProcessPool:
                    result = on_lost(tasks[index])
                yield index, result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def single_thread() -> None:
    """Let this process compute with one thread: several processes with many threads each would slow each other."""
    import itk

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(1)
