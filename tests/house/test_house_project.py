"""House rules about the project as a whole: no trace of one machine, few settings, a changelog that can be built."""

import ast
import re
from pathlib import Path

import pytest
from house_source import ROOT, Source, project_sources

# An operator reads those of one engine.
_SETTINGS_MAX = 150
_TEXT_FOLDERS = ("src", "tests", "examples", "benchmarks", "docs", "changes", ".ci")
_TEXT_SUFFIXES = {".py", ".md", ".toml", ".sql", ".json", ".lua", ".sh", ".html", ".css", ".js", ".conf", ".txt", ""}
# Where things live on one machine only, and package indexes other than the public one. Pieced together, so that this
# file does not break its own rule.
_MACHINE = re.compile("/" + r"work/(main|shared)|/" + r"tmp/brief|/(?:home|Users)/(?!you\b|user\b|me\b)[a-z]\w*/")
_FRAGMENT_NAME = re.compile(r"\d+(-[a-z0-9-]+)?\.(added|changed|fixed|removed|deprecated|security)\.md")


def project_text_files() -> list[Path]:
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in _TEXT_FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in files if path.suffix in _TEXT_SUFFIXES]


def machine_paths(text: str) -> list[str]:
    return [match[0] for match in _MACHINE.finditer(text)]


def foreign_registries(lock: str) -> set[str]:
    """Hosts in uv.lock that are not the public index."""
    return set(re.findall(r'"https?://([^/"]+)', lock)) - {"pypi.org", "files.pythonhosted.org"}


def settings_fields(source: Source) -> list[str]:
    """Every settable value: fields of a room's models that are no model themselves."""
    if not source.is_package_code or not source.path.endswith("settings.py"):
        return []
    models = [node for node in source.nodes if isinstance(node, ast.ClassDef)]
    fields = [entry for model in models for entry in model.body if isinstance(entry, ast.AnnAssign)]
    return [ast.unparse(field.target) for field in fields if "Settings" not in ast.unparse(field.annotation)]


def fragment_faults(name: str, text: str) -> list[str]:
    """What is wrong with one changelog fragment (the rule: changes/README.md)."""
    faults = []
    if not _FRAGMENT_NAME.fullmatch(name):
        faults.append("name it <issue>[-topic].<added|changed|fixed|removed|deprecated|security>.md")
    body = text.strip()
    if not body or body.startswith(("#", "-", "*")) or not body.endswith("."):
        faults.append("one paragraph of whole sentences, no headings or lists")
    if len(body) > 600:
        faults.append("at most 600 characters; the rest belongs in docs/")
    return faults


def test_no_file_knows_the_machine_it_was_written_on():
    found = {
        str(path.relative_to(ROOT)): machine_paths(path.read_text(errors="ignore")) for path in project_text_files()
    }
    assert not {path: paths for path, paths in found.items() if paths}


def test_a_planted_machine_path_is_found():
    assert machine_paths("cd /" + "work/main && ls") == ["/" + "work/main"]
    assert machine_paths("/" + "home/ada/src")
    assert not machine_paths("/home/you/meshway, /workshop, ~/.local/share")


def test_the_lock_file_names_only_the_public_index():
    assert not foreign_registries((ROOT / "uv.lock").read_text())
    assert foreign_registries('registry = "https://mirror.example/simple"') == {"mirror.example"}


def test_there_are_few_enough_settings_to_read_them_all():
    fields = [f"{source.path}: {name}" for source in project_sources() for name in settings_fields(source)]
    assert len(fields) < _SETTINGS_MAX, "\n".join(fields)


def test_settings_are_counted():
    text = "class RoomSettings:\n    a: int = 1\n    b: str = ''\n    inner: OtherSettings = OtherSettings()\n"
    assert settings_fields(Source("src/meshway/room/settings.py", text)) == ["a", "b"]


@pytest.mark.parametrize("path", sorted((ROOT / "changes").glob("*.md")), ids=lambda path: path.name)
def test_a_changelog_fragment_is_well_formed(path):
    assert path.name == "README.md" or not fragment_faults(path.name, path.read_text())


def test_a_malformed_changelog_fragment_is_found():
    assert fragment_faults("2.feature.md", "A hub that answers.")
    assert fragment_faults("2.added.md", "# Heading")
    assert fragment_faults("2.added.md", "- a list without end")
    assert fragment_faults("2.added.md", "A sentence. " * 60)
    assert not fragment_faults("2-hub.added.md", "The hub answers.")
