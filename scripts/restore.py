"""Take a volume on a prepared grid (a segmentation, a translation) back to the grid of the raw scan."""

from __future__ import annotations

import argparse

from crossmoda.errors import exit_on_input_error


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    """Restore one volume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volume", metavar="VOLUME", help="NIfTI file on the prepared grid")
    parser.add_argument("--sidecar", required=True, metavar="JSON", help="the .json beside the prepared scan")
    parser.add_argument("--output", required=True, metavar="FILE", help=".nii.gz to write")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--label", action="store_true", default=None, help="a label map (default: if it holds integers)")
    kind.add_argument("--image", dest="label", action="store_false", help="an image")
    arguments = parser.parse_args(argv)
    from crossmoda.preparation import restore

    restore(arguments.volume, arguments.sidecar, arguments.output, arguments.label)
    print(arguments.output)


if __name__ == "__main__":
    main()
