import re

import pytest
from small_page import small_page

from vcm.report.page import Table, render


@pytest.fixture
def html(tmp_path) -> str:
    return render(small_page(tmp_path))


def test_the_page_asks_nothing_of_the_network(html):
    # Within the viewer library there are addresses in comments; it lies compressed in the page.
    assert not re.findall(r'(?:src|href|url|action)\s*[=(]\s*["\']?(?:https?:)?//', html)
    assert "default-src 'none'" in html


def test_what_is_given_is_escaped(html):
    assert "A ball &lt;b&gt;" in html
    assert "<script>alert(1)" not in html


def test_the_page_holds_its_command_record_numbers_and_licence(html):
    for words in (
        "vcm synthesize &#39;a b&#39;",
        "&#34;Seed&#34;: 3",
        'data-value="10.0"',
        "BSD 2-Clause",
    ):
        assert words in html


def test_the_same_page_gives_the_same_bytes(tmp_path, html):
    assert render(small_page(tmp_path)) == html


def test_cells_of_a_table_sort_as_numbers_words_and_nothing():
    (row,) = Table(("a", "b", "c", "d"), [(0.5, "12", None, "x")]).cells()
    assert [(c.shown, c.value, c.is_words) for c in row] == [
        ("0.5", "0.5", False), ("12", "12.0", False), ("n/a", "", False), ("x", "x", True),
    ]  # fmt: skip
