"""Names and metadata are strangers' words: shown whole and literally, and never obeyed."""

import io

import pytest
import torch
from rich.console import Console

import ectorch as ec
from ectorch.bitstream import Reader
from ectorch.report.tables import inspect_table, result_table
from ectorch.report.text import as_markdown, printable, shortened

LITERAL = [
    "experts[red].weight",
    "blocks[/b].weight",
    "[link=file:///etc]a[/link]",
    "a:key:b",
    "$\\frac{a$",
    "<b>&amp;",
    "模型.weight",
    "n" * 300,
]
STEERING = {
    "\x1b]0;owned\x07\x1b[2J": r"\x1b]0;owned\x07\x1b[2J",
    "a\nfile = forged": r"a\nfile = forged",
    "a\r\tb\x00c\x7f": r"a\r\tb\x00c\x7f",
    "a\x9b2Jb": r"a\x9b2Jb",
    "a\u202egnp.exe": r"a\u202egnp.exe",
    "a\u200bb\u2028c": r"a\u200bb\u2028c",
}


@pytest.fixture(params=["inspect", "compare"])
def shown(request, run, tmp_path):
    """What a command writes about a file of tensors of these names."""

    def call(names, metadata=None):
        path = tmp_path / "m.ect"
        ec.save_file({name: torch.randn(2, 2) for name in names}, path, metadata)
        code, text, err = run(request.param, path)
        assert (code, err) == (0, "")
        return text

    return call


def test_names_are_no_markup(shown):
    text = shown(LITERAL)
    assert all(name in text for name in LITERAL)


def test_names_steer_no_terminal(shown):
    text = shown(STEERING)
    assert all(escaped in text for escaped in STEERING.values())
    assert text.replace("\n", "").isprintable()


def test_metadata_forges_no_line(run, tmp_path):
    ec.save_file({"a": torch.ones(3)}, tmp_path / "m.ect", dict.fromkeys(STEERING, "[b]v\nx = y"))
    _, text, _ = run("inspect", tmp_path / "m.ect")
    lines = text.splitlines()
    assert all(f"{escaped} = [b]v\\nx = y" in lines for escaped in STEERING.values())


def test_no_name_is_cut_in_a_narrow_window(tmp_path):
    ends = "aaa", "bbb"
    ec.save_file({"n" * 290 + end: torch.randn(2, 2) for end in ends}, tmp_path / "m.ect")
    console = Console(width=80, record=True, file=io.StringIO())
    with Reader(tmp_path / "m.ect") as reader:
        console.print(inspect_table(reader))
    lines = console.export_text().splitlines()
    names = "".join(line.split("│")[1].strip() for line in lines if "│" in line)
    assert all("n" * 290 + end in names for end in ends)


def test_titles_are_no_markup():
    words = "[red]\x1b[2J"
    keys = "float_bytes", "file_bytes", "ratio", "float_error_percent", "decoded_error_percent"
    numbers = dict.fromkeys((*keys, "nonzeros", "parameters", "labels_bytes", "mdl_bytes"), 1)
    result = {"name": words, "data": "d", "seed": 0, "evaluated_on": "test"} | numbers
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(result))
    assert r"[red]\x1b[2J, d, seed 0" in console.export_text()


@pytest.mark.parametrize("tensors", [{}, {"a": torch.empty(0, 3)}], ids=["none", "no items"])
def test_files_of_nothing_are_shown(run, tmp_path, tensors):
    ec.save_file(tensors, tmp_path / "m.ect")
    for command in ("inspect", "compare", "verify"):
        assert run(command, tmp_path / "m.ect")[0] == 0


def test_a_thousand_tensors_have_a_line_each(run, tmp_path):
    names = [f"layers.{at}.weight" for at in range(1000)]
    ec.save_file({name: torch.zeros(2) for name in names}, tmp_path / "m.ect", preset="fast")
    text = run("compare", tmp_path / "m.ect")[1]
    assert sum("layers." in line for line in text.splitlines()) == 1000


def row(text, name):
    (line,) = (line for line in text.splitlines() if f" {name} " in line)
    return [cell.strip() for cell in line.split("│")[2:-1]]


@pytest.mark.parametrize(
    ("values", "levels", "nonzeros"),
    [
        (torch.tensor([1.0, 1.0 + 1e-12, 0.0], dtype=torch.float64), 3, 2),
        (torch.tensor([2**60, 2**60 + 1, 0]), 3, 2),
        (torch.tensor([0.0, -0.0, 1e-300], dtype=torch.float64), 3, 1),
        (torch.tensor([0.0, -0.0, 1.0], dtype=torch.bfloat16), 3, 1),
        (torch.tensor([0.0, -0.0, 1.0]).to(torch.float8_e5m2), 3, 1),
        (torch.tensor([0j, complex(-0.0, -0.0), 1j]), 3, 1),
        (torch.tensor([True, False, True]), 2, 2),
        (torch.tensor([-(2**31), 0, 1], dtype=torch.int32), 3, 2),
        (torch.tensor([float("nan"), float("nan"), 0.0]), 2, 2),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, torch.Tensor) else "",
)
def test_levels_are_bit_patterns_of_any_dtype(run, tmp_path, values, levels, nonzeros):
    torch.save({"a": values}, tmp_path / "a.pt")
    ec.save_file({"a": values}, tmp_path / "a.ect")
    cells = row(run("compare", tmp_path / "a.ect", tmp_path / "a.pt")[1], "a")
    expected = [str(levels), str(nonzeros)]
    assert [cells[1:3], cells[4:6]] == [expected, expected]
    zeros = f"{100 * (1 - nonzeros / 3):.1f} %"
    assert row(run("inspect", tmp_path / "a.ect")[1], "a")[3:5] == [str(levels), zeros]


@pytest.mark.parametrize(("text", "escaped"), STEERING.items(), ids=range(len(STEERING)))
def test_what_steers_is_written_as_python_writes_it(text, escaped):
    assert printable(text) == escaped
    assert printable("\ud800") == r"\ud800"


def test_markdown_of_a_name_is_that_name():
    assert as_markdown("<img src=x>|`a`[b](c)\n") == r"&lt;img src=x&gt;\|\`a\`\[b\](c)\\n"
    assert as_markdown("lenet-300-100 alpha-0.1, 1.9 ± 0.2") == "lenet-300-100 alpha-0.1, 1.9 ± 0.2"


def test_a_short_name_keeps_its_ends():
    assert shortened("a" * 40 + "b" * 40, 11) == "aaaaa…bbbbb"
    assert shortened("short", 11) == "short"
