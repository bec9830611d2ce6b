"""Where a run keeps its results, and what the bundles are told."""

from pathlib import Path

import pytest

from crossmoda.pipeline import Pipeline

CONFIG = {
    "name": "x",
    "output_dir": "/runs/x",
    "data_list": "/data/list.json",
    "translators": {"a": {"overlays": ["methods/cut"]}, "b": {"overlays": [], "model": "a"}},
    "views": {"all": ["source", "a"]},
    "systems": {
        "one": {"bundle": "s", "images": "a", "overlays": ["m"], "inference_overlays": ["i"], "infer": {"k": 1}},
        "five": {"bundle": "s", "images": "all", "overlays": [], "inference_overlays": [], "folds": [0, 3]},
    },
    "self_training": {
        "own": {"translated": ["a"], "members": ["one", "five"], "postprocessing": ["largest_vs"]},
        "paper": {"translated": ["a"], "teachers": {"m": "five"}, "train": {"rounds": 2}},
    },
    "fusions": {"f": {"members": ["one"], "rule": "mean"}},
}
BOTH, FIRST = {"of": ["translation", "segmentation"]}, {"of": ["translation"]}
RUN = Path("/runs/x")


def pipeline(**changes):
    return Pipeline({**CONFIG, **changes})


def test_without_preparation_all_work_on_the_scans():
    run = pipeline()
    assert run.scans("translation") == run.scans("segmentation") == run.images("source") == Path("/data/list.json")
    assert run.truth is None
    assert run.translation("a") == (Path("/data/list.json"), ["methods/cut"], {})
    assert run.training_overlays("one") == ["m"]
    assert run.inference_overlays("one") == ["i"]
    assert run.inference_options("one") == {"save_probabilities": True, "k": 1}
    assert run.inference_options("five") == {}


def test_prepared_volumes_in_training_and_raw_scans_in_inference():
    run = pipeline(preparation=BOTH, truth_list="/data/oracle.json")
    prepared = RUN / "prepared" / "datalist.json"
    assert run.scans("translation") == run.images("source") == prepared
    assert run.images("oracle") == RUN / "prepared_truth" / "datalist.json"
    assert run.translation("a") == (prepared, ["methods/cut", "prepared"], {})
    assert run.training_overlays("one") == ["m", "prepared"]
    assert run.inference_overlays("one") == ["i", "preparation"]
    assert run.inference_options("five") == {"preparation": RUN / "prepared"}
    assert run.self_training_options("paper")["extra_overlays"] == ["prepared"]
    assert run.ensemble_options("paper") == {
        "ensemble": RUN / "self_training" / "paper" / "ensemble.json",
        "preparation": RUN / "prepared",
    }


def test_preparation_of_the_translation_alone_takes_raw_scans_through_it():
    run = pipeline(preparation=FIRST, truth_list="/data/oracle.json")
    assert run.translator_overlays("a") == ["methods/cut", "prepared"]
    assert run.translation("a") == (
        Path("/data/list.json"),
        ["methods/cut", "preparation"],
        {"preparation": RUN / "prepared"},
    )
    assert run.images("source") == Path("/data/list.json")
    assert run.images("oracle") == Path("/data/oracle.json")
    assert run.training_overlays("one") == ["m"]


def test_weights_of_one_network_and_of_folds():
    run = pipeline()
    assert run.weights("one") == {"ckpt_dir": RUN / "segmentation" / "one" / "model"}
    folds = [str(RUN / "segmentation" / "five" / fold / "model" / "model.pt") for fold in ("fold0", "fold3")]
    # ckpt_dir is where the reference of the folds lies.
    assert run.weights("five") == {"ckpt_dir": RUN / "segmentation" / "five" / "model", "ckpt_paths": folds}
    assert run.translator_model("b") == RUN / "translation" / "a" / "model"


@pytest.mark.parametrize(("truth", "name"), [(None, "predicted"), ("/data/oracle.json", "metrics.csv")])
def test_results(truth, name):
    run = pipeline(truth_list=truth)
    assert run.result("one") == RUN / "segmentation" / "one" / "predictions" / name
    assert run.result("own") == RUN / "self_training" / "own" / "predictions" / name
    assert run.result("f") == RUN / "fusion" / "f" / name


def test_systems_as_members_and_teachers_of_the_rounds():
    options = pipeline().self_training_options("own")
    assert options["members"] == {
        "one": {"bundle": "s", "overlays": ["m"], "infer": {"k": 1}},
        "five": {"bundle": "s", "overlays": [], "folds": [0, 3]},
    }
    looked_at_twice = {"own": {**CONFIG["self_training"]["own"], "views": [{"mirror_axes": [0]}]}}
    members = pipeline(self_training=looked_at_twice).self_training_options("own")["members"]
    assert members["one"] == {**options["members"]["one"], "views": [{"mirror_axes": [0]}]}
    assert options["extra_overlays"] == []  # the systems' overlays are complete
    assert list(options["teachers"]) == ["one", "five"]
    assert len(options["teachers"]["five"]) == 2
    assert options["translated"] == {"a": str(RUN / "translation" / "a" / "volumes" / "datalist.json")}
    paper = pipeline().self_training_options("paper")
    assert paper["rounds"] == 2
    assert "members" not in paper
    assert "extra_overlays" not in paper  # those of the overlays' own
    assert pipeline().rounds_options("own") == {"postprocessing_rules": ["largest_vs"]}


@pytest.mark.parametrize(("changes", "truth"), [({"phantom": {}}, "oracle.json"), ({"truth": None}, None)])
def test_lists_that_the_run_makes(changes, truth):
    config = {key: value for key, value in CONFIG.items() if key != "data_list"}
    run = Pipeline({**config, **changes})
    assert run.data == RUN / "datalist.json"
    assert run.truth == (truth and RUN / truth)


def test_koos_grades_that_count():
    run = pipeline(seed=7, koos={"encoder": "a", "masks": "one", "overlays": ["phantom"], "folds": 2})
    assert run.koos_method == "msf_koos_net"
    assert run.koos_folder() == RUN / "koos" / "msf_koos_net" / "seed7"
    assert run.koos_overlays("msf_koos_net") == ["phantom"]
    folds = [str(RUN / "koos/msf_koos_net/seed7" / f"fold{fold}" / "model/model.pt") for fold in (0, 1)]
    assert run.koos_weights("msf_koos_net") == folds
    networks = {"x": {}, "y": {"overlays": ["methods/gating"], "seeds": [4]}}
    koos = {"networks": networks, "seeds": [2, 4], "geometry": {}, "combination": "y"}
    run = pipeline(seed=7, koos=koos)
    assert run.koos_methods == ["x", "y", "geometry", "combination"]
    assert (run.koos_method, run.koos_network, run.koos_folder().name) == ("combination", "y", "seed4")
    assert run.koos_overlays("y") == ["methods/gating"]
    assert Path(run.koos_weights("y")[0]).parents[2] == RUN / "koos" / "y" / "seed4"  # as combined in the run
    assert run.koos_folder("x", 3) == RUN / "koos" / "x" / "seed3"
    assert len(run.koos_weights("x")) == 5
    run = pipeline(seed=7, koos={**koos, "final": "geometry"})
    assert (run.koos_method, run.koos_network) == ("geometry", None)
    assert run.koos_folder() == RUN / "koos" / "geometry" / "seed2"


@pytest.mark.parametrize(
    ("overlays", "divides"), [(["methods/chen2023", "methods/three_class"], True), (["methods/chen2023"], False)]
)
def test_labels_with_the_tumour_s_parts(overlays, divides):
    system = {**CONFIG["systems"]["one"], "overlays": overlays}
    run = pipeline(systems={**CONFIG["systems"], "one": system})
    assert run.divides_tumour("one") is divides
    assert run.divides_tumour("f") is divides
    assert not run.divides_tumour("paper")
