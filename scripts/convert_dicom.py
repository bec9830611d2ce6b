"""Convert folders of DICOM slices to NIfTI, one series a folder, orientation kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crossmoda.data import convert_series
from crossmoda.errors import InputError, exit_on_input_error

DESCRIPTION = """\
Convert folders of DICOM slices to NIfTI: FOLDER becomes DIR/FOLDER.nii.gz.

Each folder holds the files of one series. Voxels are neither flipped nor resampled, the affine places them as the
scanner did. A folder with several series, or with slices missing or doubled, is refused in one line; the others are
converted all the same, and the exit code is then 2.
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="folder with one DICOM series")
    parser.add_argument("--output", metavar="DIR", required=True, help="where the NIfTI files go; made if missing")
    return parser.parse_args(argv)


def outputs(folders: list[str], output: Path) -> dict[Path, Path]:
    """The file that each folder becomes."""
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        path = output / f"{folder.absolute().resolve().name}.nii.gz"
        if path in paths.values():
            raise InputError(f"{folder} and another folder would both become {path}: convert them to two places")
        paths[folder] = path
    return paths


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Convert the folders; returns the exit code."""
    arguments = parse_arguments(argv)
    faulty = 0
    for folder, path in outputs(arguments.folders, Path(arguments.output)).items():
        try:
            convert_series(folder, path)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            faulty += 1
        except OSError as error:
            raise InputError(
                f"{path} can't be written ({error.strerror}): free space, or name another --output"
            ) from None
        else:
            print(f"Wrote {path}")
    return 2 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
