"""Bundles checked, exported and packaged."""

from crossmoda.packaging.archive import check_checksums, unpack_bundle
from crossmoda.packaging.check import check_bundle, check_config, overlay_path, unknown_overrides
from crossmoda.packaging.export import example_input, export_onnx, export_torchscript
from crossmoda.packaging.package import package_bundle
from crossmoda.packaging.weights import build_network, read_weights

__all__ = [
    "build_network",
    "check_bundle",
    "check_checksums",
    "check_config",
    "example_input",
    "export_onnx",
    "export_torchscript",
    "overlay_path",
    "package_bundle",
    "read_weights",
    "unknown_overrides",
    "unpack_bundle",
]
