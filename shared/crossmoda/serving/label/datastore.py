"""The studies' folder, with names that are checked before they become paths."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from crossmoda.errors import InputError
from crossmoda.serving.requests import check_name


def checked(name: str, what: str) -> str:
    """`check_name`, as an error that the server answers with (of MONAI Label's own it keeps the text to itself).

    Raises:
        HTTPException: 400, if the name must not become part of a path.
    """
    try:
        return check_name(name, what)
    except InputError as error:
        raise HTTPException(400, str(error)) from None


class CheckedDatastore(LocalDatastore):
    """MONAI Label's `LocalDatastore`, which would write an image or a label with `..` in its name or tag anywhere."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a scan under a checked name."""
        return super().add_image(checked(image_id, "image"), image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label under checked names."""
        return super().save_label(
            checked(image_id, "image"), label_filename, checked(label_tag, "label_tag"), label_info
        )

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label with checked names."""
        return super().get_label_uri(checked(label_id, "label"), checked(label_tag, "label_tag"))
