#!/usr/bin/env python
"""Make a digital head phantom in the crossMoDA layout (simulated scans with known truth, no patient data)."""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: each process computes with one thread

from crossmoda.errors import InputError, exit_on_input_error


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Run again with the same settings, it goes on where it was stopped. Truth of the target scans lies in "
        "OUTPUT/truth and must not be used for training.",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--preset",
        choices=("demo", "full"),
        default="demo",
        help="demo: 240x240x40 voxels of about 0.8x0.8x1.5 mm; full: the sites' own matrices, up to 512x512x120",
    )
    parser.add_argument("--release", choices=("2022", "2023"), default="2022", help="layout, names and label schema")
    parser.add_argument(
        "--sites", default="ldn,etz", help="comma-separated: ldn (MPRAGE, CISS), etz (FFE, TSE), ukm (mixed; 2023 only)"
    )
    parser.add_argument("--source", type=int, default=24, metavar="N", help="labelled ceT1 scans, all sites together")
    parser.add_argument("--target", type=int, default=24, metavar="N", help="hrT2 training scans, all sites together")
    parser.add_argument("--validation", type=int, default=8, metavar="N", help="hrT2 validation scans, all sites")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes, one thread each")
    parser.add_argument(
        "--paired",
        action="store_true",
        help="besides, the hrT2 of each source subject on its ceT1's grid, in OUTPUT/truth/training_source: the truth "
        "of translations, never for training",
    )
    return parser.parse_args()


@exit_on_input_error
def main() -> None:
    """Make the phantom."""
    args = parse()
    sites = [site.strip() for site in args.sites.split(",") if site.strip()]
    if not sites or len(set(sites)) < len(sites):
        raise InputError(f"--sites {args.sites!r}: name each site once, e.g. ldn,etz")
    for name in ("source", "target", "validation"):
        if getattr(args, name) < 0:
            raise InputError(f"--{name} {getattr(args, name)}: give 0 or more")
    if args.jobs < 1 or args.seed < 0:
        raise InputError("--jobs must be at least 1 and --seed at least 0")
    from crossmoda.phantom import make_phantom

    counts = (args.source, args.target, args.validation)
    cases = make_phantom(
        args.output, args.preset, args.release, sites, *counts, args.seed, args.jobs, paired=args.paired
    )
    print(f"{len(cases)} cases in {args.output}")


if __name__ == "__main__":
    main()
