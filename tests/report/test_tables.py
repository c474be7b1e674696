"""One table as HTML, Markdown and LaTeX."""

from llie_jax.report import tables
from llie_jax.report.tables import Cell, Group, Number, Table
from tests.evaluation.test_report import Page

TABLE = Table(
    title="A_1 & <b>",
    corner="model",
    groups=[Group("set|1", ("PSNR", "SSIM")), Group("set 2", ("x",))],
    rows=[
        (
            "ours_50%",
            [
                Cell((Number("21.00 ± 0.10", ("3 runs",)),), 21.0, best=True),
                tables.cell("0.8"),
                Cell(),
            ],
        ),
        ("other", [Cell((Number("1"), Number("2", ("uses # ref",)))), Cell(), Cell()]),
    ],
    note="Text.",
    terms={"set 2": "of {2}"},
)


def test_html():
    text = tables.to_html(TABLE)
    page = Page(text)
    assert [tag.get("colspan") for tag in page.all("th")][1:3] == ["2", "1"]
    assert "<b>21.00 ± 0.10</b><small>3 runs</small>" in text
    assert 'data-value="21.0"' in text
    assert "A_1 &amp; &lt;b&gt;" in text
    assert {"uses # ref", "–", "of {2}", "ours_50%"} <= set(page.words)


def test_markdown():
    lines = tables.to_markdown(TABLE).splitlines()
    assert lines[0] == r"## A\_1 & \<b\>"
    assert lines[4] == r"| model | set\|1: PSNR | set\|1: SSIM | set 2: x |"
    assert lines[6] == r"| ours\_50% | **21.00 ± 0.10** [3 runs] | 0.8 | – |"
    assert lines[7] == r"| other | 1; 2 [uses \# ref] | – | – |"
    assert lines[-1] == r"* set 2: of \{2\}"


def test_latex():
    text = tables.to_latex(TABLE)
    assert r"\caption{A\_1 \& \textless{}b\textgreater{}. Text.}" in text
    assert r" & \multicolumn{2}{c}{set|1} & \multicolumn{1}{c}{set 2} \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in text
    assert r"\textbf{21.00 $\pm$ 0.10} \\ \scriptsize 3 runs" in text
    assert r"\scriptsize uses \# ref" in text
    assert r"set 2: of \{2\}\par" in text
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    rows = [line for line in text.splitlines() if line.startswith(("ours", "other"))]
    assert [row.replace(r"\&", "").count("&") for row in rows] == [3, 3]


def test_without_groups():
    table = Table("t", "model", [Group("", ("a",))], [("m", [tables.cell("1", 1)])])
    assert "groups" not in tables.to_html(table)
    assert "| model | a |" in tables.to_markdown(table)
    assert "multicolumn" not in tables.to_latex(table)
