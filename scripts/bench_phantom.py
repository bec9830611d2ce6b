#!/usr/bin/env python
"""Measure the phantom: seconds a case and peak memory, by preset, site and modality, on one thread."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the phantom computes with one thread

import torch

from crossmoda.phantom import CaseSimulator
from crossmoda.phantom.anatomy import load_atlas

SCANS = (("ldn", "ceT1"), ("ldn", "hrT2"), ("etz", "ceT1"), ("etz", "hrT2"))


def measure(job: tuple[str, str, str, int, int]) -> tuple[float, float, str]:
    """Simulate cases in this process.

    Args:
        job: site, modality, preset, number of cases and seed.

    Returns:
        Seconds a case, the process's peak memory in GiB (atlas included), and the matrix.
    """
    site, modality, preset, cases, seed = job
    torch.set_num_threads(1)
    start = time.perf_counter()
    for n in range(cases):
        simulator = CaseSimulator(site, modality, preset)
        simulator.set_random_state(seed + n)
        shape = simulator(4 - n % 4).image.shape
    seconds = (time.perf_counter() - start) / cases
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, "x".join(map(str, shape))


def main() -> None:
    """Read the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=("demo", "full"), default=["demo", "full"])
    parser.add_argument("--cases", type=int, default=2, metavar="N", help="cases a row")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    args = parser.parse_args()
    if args.cases < 1 or args.seed < 0:
        parser.error("--cases must be at least 1 and --seed at least 0")
    torch.set_num_threads(1)
    start = time.perf_counter()
    load_atlas()
    print(f"atlas, once a process: {time.perf_counter() - start:.1f} s")
    print("preset  site  modality  matrix       s/case  peak GiB")
    context = multiprocessing.get_context("fork")
    for preset in args.presets:
        for site, modality in SCANS:
            with context.Pool(1) as pool:  # a process of its own, so that the peak is that row's
                seconds, memory, matrix = pool.apply(measure, ((site, modality, preset, args.cases, args.seed),))
            print(f"{preset:<7} {site:<5} {modality:<9} {matrix:<12} {seconds:6.1f}  {memory:8.2f}", flush=True)


if __name__ == "__main__":
    main()
