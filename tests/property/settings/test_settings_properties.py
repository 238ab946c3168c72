"""For every file and environment: settings or a SettingsError, and never anything else."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from meshway.settings.convert import read_text
from meshway.settings.load import load_settings
from meshway.settings.model import Settings
from meshway.settings.problems import SettingsError
from meshway.settings.schema import setting_keys
from meshway.settings.toml_lines import key_lines

KEYS = setting_keys(Settings)
VARIABLES = st.sampled_from(sorted(setting.environment for setting in KEYS.values()))
VALUES = st.text(max_size=20).filter(lambda text: "\x00" not in text) | st.sampled_from(
    [
        "1",
        "true",
        "[]",
        "{}",
        "[{}]",
        '[{"id":"a","url":"http://a"}]',
        '[{"name":"a"}]',
        "a=b",
        "null",
        "1e9",
        "-1",
        "9" * 30,
    ]
)

names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
comments = st.sampled_from(["", "  # a = 1", "\n", "\n# [x]\n"])


@given(st.dictionaries(VARIABLES, VALUES, max_size=4))
def test_any_environment_gives_settings_or_says_what_is_wrong(environ):
    try:
        effective = load_settings(file=None, environ=environ, flags={})
    except SettingsError as error:
        told = [problem.source for problem in error.problems]
        assert told
    else:
        assert isinstance(effective.settings, Settings)


@given(st.sampled_from(sorted(KEYS)), st.text(max_size=30))
def test_reading_a_variable_never_fails(key, text):
    read_text(text, KEYS[key].type)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """TOML in the usual spellings: dotted and quoted keys, tables, lists of tables, long strings."""
    lines: list[str] = []
    tables = draw(st.lists(names, max_size=4, unique=True))
    for table in ["", *tables]:
        is_list = draw(st.booleans())
        for _ in range(draw(st.integers(1, 3)) if is_list and table else 1):
            if table:
                lines.append(f"[[{table}]]" if is_list else f"[ {table} ]")
            for key in draw(st.lists(names, max_size=3, unique=True)):
                if not table and key in tables:
                    continue
                spelled = draw(st.sampled_from([key, f'"{key}"', f"{key}.sub", f"'{key}' . sub"]))
                value = draw(
                    st.sampled_from(["1", '"a = b"', "[\n 1,\n 2,\n]", '"""\nfake = 1\n[fake]\n"""', "{ x = 1 }"])
                )
                lines.append(f"{spelled} = {value}{draw(comments)}")
    return "\n".join(lines)


def _leaves(value: object, prefix: str) -> set[str]:
    if isinstance(value, dict) and prefix.count(".") < 2:
        return set().union(*(_leaves(inner, f"{prefix}.{name}".strip(".")) for name, inner in value.items()))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return set().union(*(_leaves(inner, f"{prefix}.{index}") for index, inner in enumerate(value)))
    return {prefix}


@given(documents())
def test_every_key_of_a_file_is_found_on_a_line_that_names_it(text):
    document = tomllib.loads(text)
    lines = key_lines(text)
    written = text.splitlines()
    for dotted in _leaves(document, "") - {""}:
        found = next((each for each in (dotted, dotted.rpartition(".")[0]) if each in lines), None)
        assert found is not None, (dotted, text)
        assert found.split(".")[-1].replace("0", "").replace("1", "").replace("2", "") in written[lines[found] - 1]
    assert not any("fake" in key for key in lines)
