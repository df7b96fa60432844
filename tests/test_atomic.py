from hypothesis import given
from hypothesis import strategies as st

from ovparts_lib.atomic import safe_name


def test_ordinary_words_are_their_own_names():
    assert safe_name("dog head") == "dog_head"
    assert safe_name("2008_000393") == "2008_000393"
    assert safe_name("狗的头") == "狗的头"


def test_signs_that_file_systems_or_pages_mind_are_replaced():
    for text in ("screen/monitor", "and/or", "<b>x</b>", "a:b", "..", "../up", ".hidden", "", "nul\0", "x" * 300):
        name = safe_name(text)
        assert name
        assert not set(name) & set('/\\:*?"<>|\0')
        assert not name.startswith(".")


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=12), unique=True, max_size=6))
def test_different_texts_have_different_short_names(texts):
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(names)
    assert all(len(name.encode()) <= 107 for name in names)
