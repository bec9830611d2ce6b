#!/usr/bin/env python
"""Measure rigid registration to MNI152 on phantom heads whose pose is known; print the errors at the cochleae.

Each case is a full-preset scan (the site's field of view; matrices of 400 and more columns at half of it) with a known
rigid offset added to its header. Two kinds of heads: undeformed ones, where the inverse of the pose is the truth, and
deformed ones, where no rigid map is exact: there the truth is the best rigid fit (Procrustes) to the known map over
the brain, and the same scan is registered from two offsets to see how well both agree.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one thread a job
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import numpy as np
import torch
from tqdm import tqdm

from crossmoda.phantom import Case, CaseSimulator
from crossmoda.phantom.anatomy import load_atlas
from crossmoda.phantom.head import PETROUS_MNI, Head
from crossmoda.registration.register import register
from crossmoda.registration.search import rigid
from crossmoda.registration.template import mni152

SCANS = (("ldn", "ceT1"), ("ldn", "hrT2"), ("etz", "ceT1"), ("etz", "hrT2"), ("ukm", "ceT1"), ("ukm", "hrT2"))
COCHLEAE = np.array([[side * PETROUS_MNI[0], *PETROUS_MNI[1:], 1.0] for side in (1, -1)]).T
WANTED = 1.0  # mm, mean of the two cochleae
WRONG = 5.0  # mm; beyond it a deformed head's registration has failed, not only compromised


@dataclass
class Trial:
    """One registration of one scan.

    Attributes:
        case: number.
        site: of the scan.
        modality: of the scan.
        deformed: head.
        repeat: 0, or 1 for the second offset of a deformed head.
        error: distance at the cochleae, mean of both sides, mm.
        visible_error: the same against the rigid fit over that part of the brain which the scan shows.
        places: where the cochleae came to lie, 3x2, mm.
        failure: as the registration says.
        seconds: CPU seconds of the registration.
    """

    case: int
    site: str
    modality: str
    deformed: bool
    repeat: int
    error: float
    visible_error: float
    places: list
    failure: str
    seconds: float


def draw_offset(R: np.random.RandomState, shift: float, angle: float) -> np.ndarray:
    """Rigid map about the origin: axis and direction uniform, amounts uniform up to `angle` degrees and `shift` mm."""
    axis, direction = (v / np.linalg.norm(v) for v in R.randn(2, 3))
    return rigid(np.r_[axis * R.uniform(0, angle), direction * R.uniform(0, shift)][None], np.zeros(3))[0]


def best_rigid(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rigid map (4x4) of smallest squared distance from points (3, N) to points (3, N) (Kabsch 1976)."""
    a, b = source.mean(1, keepdims=True), target.mean(1, keepdims=True)
    u, _, vt = np.linalg.svd((target - b) @ (source - a).T)
    out = np.eye(4)
    out[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    out[:3, 3] = (b - out[:3, :3] @ a)[:, 0]
    return out


def true_maps(head: Head, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Scan world to MNI: best rigid map over the brain, and over the part of it in the scan. Equal if undeformed."""
    axes = (torch.arange(-80, 81, 5.0), torch.arange(-116, 81, 5.0), torch.arange(-90, 91, 5.0))
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    inside = (head.intracranial(points) < 0) & (points[2] > -66)
    source, target = points[:, inside].double().numpy(), head.warp(points)[:, inside].double().numpy()
    pose = np.array(case.facts["pose"])
    voxels = (np.linalg.inv(case.affine) @ pose @ np.vstack([source, np.ones_like(source[:1])]))[:3].T
    visible = ((voxels >= 0) & (voxels <= np.array(case.image.shape) - 1)).all(1)
    back = np.linalg.inv(pose)
    return best_rigid(source, target) @ back, best_rigid(source[:, visible], target[:, visible]) @ back


def run_case(n: int, deformed: bool, seed: int, shift: float, angle: float, backend: str) -> list[Trial]:
    """Simulate a scan and register it, deformed heads from two offsets."""
    torch.set_num_threads(1)
    site, modality = SCANS[n % len(SCANS)]
    coarsen = 2 if (site, modality) in (("ldn", "ceT1"), ("ldn", "hrT2"), ("etz", "hrT2")) else 1
    simulator = CaseSimulator(site, modality, "full", deform=deformed, coarsen=coarsen)
    simulator.set_random_state(seed + n)
    case = simulator(4 - (n // len(SCANS)) % 4)
    whole, visible = true_maps(simulator.head, case)
    cochleae = np.linalg.inv(whole) @ COCHLEAE  # in the scan's world
    R = np.random.RandomState(seed + 10_000 + n)
    template, out = mni152(), []
    for repeat in range(2 if deformed else 1):
        offset = draw_offset(R, shift, angle)
        start = time.process_time()
        result = register(
            case.image, offset @ case.affine, template.values, template.affine, template.mask, backend=backend
        )
        seconds = time.process_time() - start
        places = (np.array(result.rejected or result.matrix) @ offset @ cochleae)[:3]
        errors = (np.linalg.norm(places - (m @ cochleae)[:3], axis=0).mean() for m in (whole, visible))
        out.append(
            Trial(n, site, modality, deformed, repeat, *errors, places.tolist(), result.failure, round(seconds, 2))
        )
    return out


def table(trials: list[Trial], wrong: float) -> str:
    """Markdown table of the errors by scan and of all."""
    lines = [
        f"| scan | trials | mean | median | max | <= {WANTED:g} mm | flagged | > {wrong:g} mm not flagged | CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    groups = [(f"{s} {m}", [t for t in trials if (t.site, t.modality) == (s, m)]) for s, m in SCANS]
    for name, group in [*groups, ("all", trials)]:
        if not group:
            continue
        e = np.array([t.error for t in group])
        good = [t for t in group if t.error <= WANTED and not t.failure]
        silent = sum(t.error > wrong and not t.failure for t in group)
        lines.append(
            f"| {name} | {len(group)} | {e.mean():.2f} | {np.median(e):.2f} | {e.max():.2f} | "
            f"{100 * len(good) / len(group):.1f} % | {sum(bool(t.failure) for t in group)} | {silent} | "
            f"{np.mean([t.seconds for t in group]):.1f} |"
        )
    return "\n".join(lines)


def repeatability(trials: list[Trial]) -> np.ndarray:
    """Distance at the cochleae between the two registrations of each deformed case, mean of both sides, mm."""
    cases = sorted({t.case for t in trials})
    pairs = [[np.array(t.places) for t in trials if t.case == n] for n in cases]
    return np.array([np.linalg.norm(a - b, axis=0).mean() for a, b in pairs])


def main() -> None:
    """Read the command line, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", type=int, default=40, metavar="N", help="cases of each kind of heads")
    parser.add_argument("--heads", choices=("undeformed", "deformed", "both"), default="both")
    parser.add_argument("--shift", type=float, default=20.0, metavar="MM", help="largest offset")
    parser.add_argument("--angle", type=float, default=15.0, metavar="DEG", help="largest offset")
    parser.add_argument("--backend", choices=("elastix", "itk"), default="elastix")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--jobs", type=int, default=1, metavar="J")
    parser.add_argument("--output", type=Path, metavar="JSON", help="write every trial there")
    args = parser.parse_args()
    if args.cases < 1 or args.jobs < 1 or args.seed < 0:
        parser.error("--cases and --jobs must be at least 1, --seed at least 0")
    torch.set_num_threads(1)
    load_atlas()
    mni152()
    kinds = {"undeformed": (False,), "deformed": (True,), "both": (False, True)}[args.heads]
    settings = {"seed": args.seed, "shift": args.shift, "angle": args.angle, "backend": args.backend}
    trials: list[Trial] = []
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:  # forked processes share the atlas
        for deformed in kinds:
            work = pool.imap_unordered(partial(run_case, deformed=deformed, **settings), range(args.cases))
            for found in tqdm(work, total=args.cases, desc="deformed" if deformed else "undeformed", unit="case"):
                trials += found
                if args.output:
                    args.output.write_text(json.dumps([asdict(t) for t in trials], indent=1) + "\n")
    report(trials)


def report(trials: list[Trial]) -> None:
    """Print what was measured."""
    rigid_heads = [t for t in trials if not t.deformed]
    if rigid_heads:
        print(f"\nUndeformed heads: error at the cochleae against the true pose, mm\n\n{table(rigid_heads, WANTED)}")
    others = [t for t in trials if t.deformed]
    if others:
        print(f"\nDeformed heads: the same against the best rigid fit over the brain, mm\n\n{table(others, WRONG)}")
        visible = np.array([t.visible_error for t in others])
        print(
            f"\nagainst the fit over the visible brain: mean {visible.mean():.2f}, median {np.median(visible):.2f}, "
            f"max {visible.max():.2f} mm; <= {WANTED:g} mm in {100 * (visible <= WANTED).mean():.1f} %"
        )
        apart = repeatability(others)
        print(
            f"two offsets of the same scan: {apart.mean():.2f} mm apart in the mean, median {np.median(apart):.2f}, "
            f"max {apart.max():.2f} mm"
        )
    for t in trials:
        if t.failure:
            kind = "deformed" if t.deformed else "undeformed"
            print(f"flagged: {kind} case {t.case} ({t.site} {t.modality}, {t.error:.1f} mm off): {t.failure}")


if __name__ == "__main__":
    main()
