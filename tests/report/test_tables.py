import pytest

from crossmoda.errors import InputError
from crossmoda.report import tables


def rows(dice, sites=("ldn", "etz", "ldn"), koos=("1", "4", "")):
    """Cases whose VS and cochlea Dice are given, with distances that follow from them."""
    return [
        {
            "case": f"c{number}",
            "site": site,
            "koos": grade,
            "dice_VS": value,
            "dice_cochlea": value / 2,
            "assd_VS": 10 - 10 * value,
            "assd_cochlea": 1.0,
            "truth_ml_VS": 1.0,
            "prediction_ml_VS": value,
            "truth_ml_cochlea": 0.2,
            "prediction_ml_cochlea": 0.2,
        }
        for number, (value, site, grade) in enumerate(zip(dice, sites, koos, strict=True))
    ]


SYSTEMS = {"low": rows([0.0, 0.2, 0.1]), "ours": rows([0.4, 0.6, 0.5]), "high": rows([0.9, 0.8, 1.0])}


def test_shares_of_the_gap():
    results = tables.compare(SYSTEMS, "low", "high")
    closed = results["systems"]["ours"]["gap_closed"]
    assert closed["dice"]["VS"] == pytest.approx(0.5)  # 0.1, 0.5, 0.9
    assert closed["dice"]["cochlea"] == pytest.approx(0.5)
    assert closed["assd"]["VS"] == pytest.approx(0.5)
    assert closed["assd"]["cochlea"] is None  # no gap
    assert results["systems"]["low"]["gap_closed"]["dice"]["mean"] == pytest.approx(0)
    assert results["systems"]["high"]["gap_closed"]["dice"]["mean"] == pytest.approx(1)
    assert tables.compare(SYSTEMS)["systems"]["ours"]["gap_closed"]["dice"]["VS"] is None


def test_main_table_as_text_and_markdown():
    table = tables.main_table(tables.compare(SYSTEMS, "low", "high"))
    assert table.rows[1] == ["ours", "0.500 ± 0.100", "0.250 ± 0.050", "5.00 ± 1.00", "1.00 ± 0.00", "50%", "50%"]
    lines = table.text().splitlines()
    assert "3 cases" in lines[0]
    assert (
        len({line.index(value) + len(value) for line, value in zip(lines[3:], ("0%", "50%", "100%"), strict=True)}) == 1
    )
    markdown = table.markdown().splitlines()
    assert markdown[3].count("|") == 8
    assert markdown[5].startswith("| ours | 0.500 ± 0.100 |")


def test_tables_of_groups():
    results = tables.compare(SYSTEMS, "low", "high")
    assert tables.site_table(results).rows[2][:4] == ["ours", "etz", "1", "0.600"]
    grades = tables.grade_table(SYSTEMS)
    assert grades.header == ["system", "1 (n = 1)", "4 (n = 1)"]
    assert grades.rows[2] == ["high", "0.900", "0.800"]
    assert tables.grade_table({"ours": rows([0.1] * 3, koos=("", "", ""))}) is None
    assert [row[-2:] for row in tables.median_table(results).rows] == [["1", "0"], ["0", "0"], ["0", "0"]]
    assert tables.comparison_table(results).rows[0] == ["ours against low", "VS", "+0.400", "0.25"]
    assert tables.comparison_table(tables.compare({"ours": SYSTEMS["ours"]})) is None


def test_unknown_bound():
    with pytest.raises(InputError, match="'best' is none of the systems low, ours, high"):
        tables.compare(SYSTEMS, "low", "best")


def parts(rows, extra, intra, boundary):
    """The same cases with the metrics of the tumour's parts."""
    return [
        row
        | {f"{kind}_{name}": 1.0 for kind in ("truth_ml", "prediction_ml") for name in ("extra", "intra")}
        | {"dice_extra": a, "dice_intra": b, "assd_extra": 1 - a, "assd_intra": 1 - b, "assd_boundary": c}
        for row, a, b, c in zip(rows, extra, intra, boundary, strict=True)
    ]


def test_tables_of_parts_beside_systems_without():
    ours = parts(SYSTEMS["ours"], (0.5, 0.6, 0.7), (0.3, 0.3, 0.3), (0.5, 1.0, 350.0))
    high = parts(SYSTEMS["high"], (0.9, 0.9, 0.9), (0.8, 0.8, 0.8), (0.0, 0.0, 0.0))
    results = tables.compare({"low": SYSTEMS["low"], "ours": ours, "high": high}, "low", "high")
    table = tables.part_table(results)
    assert table.header[1:] == [
        "extra Dice",
        "intra Dice",
        "extra ASSD (mm)",
        "intra ASSD (mm)",
        "boundary ASSD (mm)",
    ]
    assert table.rows[0] == ["low", "-", "-", "-", "-", "-"]
    assert table.rows[1][:3] == ["ours", "0.600 ± 0.100", "0.300 ± 0.000"]
    assert table.rows[1][-1].startswith("117.17 ±")
    plain = tables.compare(SYSTEMS, "low", "high")
    assert tables.part_table(plain) is None
    for make in (tables.main_table, tables.median_table, tables.site_table):  # these look at VS and cochlea
        assert make(results).text() == make(plain).text()
    assert results["systems"]["ours"]["gap_closed"]["dice"]["extra"] is None  # the lower bound has no parts
    columns = {(test["first"], test["second"]): [] for test in results["paired_tests"]}
    for test in results["paired_tests"]:
        columns[test["first"], test["second"]].append(test["column"])
    assert columns["low", "ours"] == ["dice_VS", "dice_cochlea", "assd_VS", "assd_cochlea"]
    assert set(columns["ours", "high"]) - set(columns["low", "ours"]) == {
        "dice_extra",
        "dice_intra",
        "assd_extra",
        "assd_intra",
        "assd_boundary",
    }
    both = tables.compare(
        {"low": parts(SYSTEMS["low"], *[(0.1, 0.1, 0.1)] * 3), "ours": ours, "high": high}, "low", "high"
    )
    assert both["systems"]["ours"]["gap_closed"]["dice"]["extra"] == pytest.approx(0.5 / 0.8)
