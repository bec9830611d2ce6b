"""An ensemble's networks for raw scans."""

from crossmoda.selftraining.ensemble import for_raw_scans
from crossmoda.selftraining.members import Member, Network


def test_the_overlay_of_prepared_volumes_gives_way_to_the_preparation():
    member = Member("m", "segmentation-3d", overlays=["methods/li2021", "prepared"], infer={"overlap": 0.25})
    network = for_raw_scans(Network(member, 2), "/runs/prepared")
    files = [path.rsplit("/", 1)[1] for path in network.member.config_files("inference")]
    assert files == ["inference.yaml", "li2021.yaml", "preparation.yaml"]
    assert network.member.options("inference", 0) == {"overlap": 0.25, "preparation": "/runs/prepared"}
    assert network.fold == 2
    assert member.overlays == ["methods/li2021", "prepared"]  # the original stays


def test_overlays_of_its_own_for_inference_are_taken():
    member = Member("m", "segmentation-3d", overlays=["prepared"], inference_overlays=["methods/li2021", "prepared"])
    assert for_raw_scans(Network(member), "x").member.inference_overlays == ["methods/li2021", "preparation"]
