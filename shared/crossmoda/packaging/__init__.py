"""Bundles checked and packaged."""

from crossmoda.packaging.archive import check_checksums, unpack_bundle
from crossmoda.packaging.check import check_bundle, check_config
from crossmoda.packaging.package import package_bundle

__all__ = ["check_bundle", "check_checksums", "check_config", "package_bundle", "unpack_bundle"]
