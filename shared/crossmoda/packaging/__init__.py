"""Bundles checked, exported and packaged."""

from crossmoda.packaging.check import check_bundle, check_config

__all__ = ["check_bundle", "check_config"]
