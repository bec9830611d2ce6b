import json

from crossmoda.report.translations import translation_table


def summary(**changes):
    cases = {"contrast_VS": 3.04, "contrast_cochlea": 20.0, "edges_kept": 0.5, "flicker_percent": 1.25} | changes
    return {
        "cases": {name: {"mean": value, "sd": 1.0, "median": value} for name, value in cases.items()},
        "truth": {"contrast_VS": {"mean": -12.3}} if "mae_percent" in changes else {},
        "distances": {"all": {"fid": {"closed": 0.686}, "spectrum_db": {"closed": None}}},
    }


def test_one_row_for_each_judged_translator(tmp_path):
    folders = {name: tmp_path / name for name in ("paired", "plain", "not_judged")}
    for folder in folders.values():
        folder.mkdir()
    (folders["paired"] / "summary.json").write_text(json.dumps(summary(mae_percent=20.0, ssim_2d=0.4321)))
    (folders["plain"] / "summary.json").write_text(json.dumps(summary()))
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss,val_selection_score\n1,3,0.25\n2,2,0.5\n3,1,\n")
    table = translation_table(folders, {"paired": history, "plain": None})
    assert table.rows == [
        ["paired", "0.500", "69%", "-", "3.0 (-12.3)", "20.0", "0.50", "1.25", "20.0", "0.432"],
        ["plain", "-", "69%", "-", "3.0", "20.0", "0.50", "1.25", "-", "-"],
    ]
    assert len(table.header) == len(table.rows[0])


def test_nothing_judged_is_no_table(tmp_path):
    assert translation_table({"a": tmp_path}, {}) is None
