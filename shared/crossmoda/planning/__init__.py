"""Planning of a segmentation from its data, by nnU-Net's rules."""

from crossmoda.planning.fingerprint import Fingerprint, extract_fingerprint
from crossmoda.planning.overlay import plan_overlay
from crossmoda.planning.plan import CONFIGURATIONS, RULES, Plan, plan_experiment, target_spacing
from crossmoda.planning.topology import Topology, feature_map_voxels, topology_v1, topology_v2

__all__ = [
    "CONFIGURATIONS",
    "RULES",
    "Fingerprint",
    "Plan",
    "Topology",
    "extract_fingerprint",
    "feature_map_voxels",
    "plan_experiment",
    "plan_overlay",
    "target_spacing",
    "topology_v1",
    "topology_v2",
]
