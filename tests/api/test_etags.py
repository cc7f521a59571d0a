import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import etags
from api.problems import Refused


@given(st.integers(0, 10**18 - 1))
def test_a_version_comes_back_from_its_tag_however_proxies_mark_it(version: int) -> None:
    tag = etags.of_version(version)
    for marked in (tag, f"W/{tag}", f" {tag} ", f'{tag[:-1]}-gzip"', f'W/{tag[:-1]}-gzip"'):
        assert etags.version_of(marked) == version


@pytest.mark.parametrize("given_tag", ["", "*", "3", '""', '"x"', '"-1"', '"1.0"', '"1","2"', 'w/"1"', '"²"'])
def test_anything_but_one_version_is_refused(given_tag: str) -> None:
    with pytest.raises(Refused):
        etags.version_of(given_tag)


def test_the_tag_of_rows_changes_with_build_key_revision_and_order() -> None:
    tags = [
        etags.of_rows("build", [("a", 1), ("b", 2)]),
        etags.of_rows("other", [("a", 1), ("b", 2)]),
        etags.of_rows("build", [("a", 1), ("b", 3)]),
        etags.of_rows("build", [("a", 1), ("c", 2)]),
        etags.of_rows("build", [("b", 2), ("a", 1)]),
        etags.of_rows("build", [("a", 1)]),
        etags.of_rows("build", []),
    ]
    assert len(set(tags)) == len(tags)
    assert etags.of_rows("build", [("a", 1), ("b", 2)]) == tags[0]


def test_a_copy_is_known_however_it_was_marked() -> None:
    tag = etags.of_rows("build", [("a", 1)])
    other = etags.of_rows("build", [("a", 2)])
    assert etags.none_match(None, tag)
    assert etags.none_match(other, tag)
    for known in (tag, f"W/{tag}", f'{tag[:-1]}-gzip"', f"{other}, {tag}", "*"):
        assert not etags.none_match(known, tag)
