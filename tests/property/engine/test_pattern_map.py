"""Patterns are found as if each were compared by itself, whatever came and went before."""

from hypothesis import given
from hypothesis import strategies as st

from meshway.engine.ports.checks import check_pattern, pattern_matches
from meshway.engine.ports.pattern_map import PatternMap

TOKENS = st.sampled_from(["a", "b", "c"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.tuples(
    st.lists(st.one_of(TOKENS, st.just("*")), max_size=3), st.one_of(TOKENS, st.sampled_from(["*", ">"]))
).map(lambda parts: ".".join([*parts[0], parts[1]]))


@given(steps=st.lists(st.tuples(PATTERNS, SUBJECTS), max_size=40))
def test_a_subject_finds_the_patterns_that_match_it(steps: list[tuple[str, str]]) -> None:
    patterns: PatternMap[list[str]] = PatternMap()
    there: set[str] = set()
    for pattern, subject in steps:
        check_pattern(pattern)
        # Each step takes the pattern away or puts it back, so what is remembered per subject has to follow.
        if pattern in there:
            there.remove(pattern)
            patterns.remove(pattern)
        else:
            there.add(pattern)
            patterns.put(pattern, [pattern])
        expected = {each for each in there if pattern_matches(each.split("."), subject.split("."))}
        found = [each[0] for each in patterns.matching(subject)]
        assert len(found) == len(set(found))
        assert set(found) == expected
        assert len(patterns) == len(there)
        assert patterns.get(pattern) == ([pattern] if pattern in there else None)
