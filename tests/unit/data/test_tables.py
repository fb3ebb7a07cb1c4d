"""read_table keeps every cell as text, numbers rows as their owner does, and says what is wrong with a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest

from vizsla.data.table.tables import read_table, table_of_frame
from vizsla.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_cells_stay_text(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "file, label\n007.jpg,NA\n8,\n,null\n"))
    assert table.columns == ("file", "label")
    assert table.rows == (("007.jpg", "NA"), ("8", ""), ("", "null"))


def test_rows_are_numbered_as_in_a_spreadsheet(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", 'f,l\n"a\nb.jpg",x\n\nc.jpg,y\n'))
    assert table.rows == (("a\nb.jpg", "x"), ("c.jpg", "y"))
    assert table.numbers == (2, 4)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_out(tmp_path: Path, delimiter: str):
    text = f"f{delimiter}l\r\na.jpg{delimiter}x\r\n"
    table = read_table(write(tmp_path / "t.csv", text))
    assert (table.columns, table.rows) == (("f", "l"), (("a.jpg", "x"),))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path):
    assert read_table(write(tmp_path / "t.csv", "f,l\na,b\n", "utf-8-sig")).columns == ("f", "l")


def test_without_a_header_columns_are_named_by_position(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "a,b\nc,d\n"), header=None)
    assert (table.columns, table.rows) == (("0", "1"), (("a", "b"), ("c", "d")))
    assert table.numbers == (1, 2)


def test_a_header_may_stand_further_down(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "made by,me\nf,l\na,b\n"), header=1)
    assert (table.columns, table.rows, table.numbers) == (("f", "l"), (("a", "b"),), (3,))


def test_short_rows_are_filled_and_long_ones_refused(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "f,l\na\nb,c,\n"))
    assert table.rows == (("a", ""), ("b", "c"))
    with pytest.raises(TableError, match=r"1 row of .* has more cells .*\n  row 2: 3 cells"):
        read_table(write(tmp_path / "u.csv", "f,l\na,b,c\n"))


def test_a_column_is_found_by_name_or_position(tmp_path: Path):
    table = read_table(write(tmp_path / "t.csv", "f,l\na,b\nc,d\n"))
    assert table.column("l") == table.column(1) == table.column(-1) == ("b", "d")


@pytest.mark.parametrize("column", ["breed", 2])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, column: str | int):
    table = read_table(write(tmp_path / "t.csv", "f,l\na,b\n"))
    message = rf"no column {column!r} in '.*t\.csv'.*\n  0: 'f'\n  1: 'l'\n"
    with pytest.raises(TableError, match=message):
        table.column(column)


def test_unusable_tables_say_why(tmp_path: Path):
    with pytest.raises(TableError, match=r"There is no file '.*gone\.csv'"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(TableError, match="is empty"):
        read_table(write(tmp_path / "empty.csv", "\n"))
    with pytest.raises(TableError, match="has a header and no rows"):
        read_table(write(tmp_path / "header.csv", "f,l\n"))
    with pytest.raises(TableError, match=r"no text in UTF-8 \(byte"):
        read_table(write(tmp_path / "latin.csv", "f,l\né,b\n", "latin-1"))
    with pytest.raises(TableError, match=r"no text in UTF-8|is no CSV file"):
        read_table(write(tmp_path / "utf16.csv", "f,l\na,b\n", "utf-16"))
    with pytest.raises(TableError, match="is no CSV file"):
        read_table(write(tmp_path / "long.csv", "f,l\n" + "a" * 200_000 + ",b\n"))
    with pytest.raises(TableError, match="cannot be read"):
        read_table(tmp_path)


def test_a_frame_keeps_its_values_and_loses_its_gaps():
    frame = pd.DataFrame({"f": ["a", None], "n": [1, 2], 3: [0.5, float("nan")]})
    table = table_of_frame(frame)
    assert table.columns == ("f", "n", "3")
    assert table.rows == (("a", 1, 0.5), (None, 2, None))
    assert table.numbers == (0, 1)
