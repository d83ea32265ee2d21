"""The messages that docs/troubleshooting.md explains are those of the program."""

import re

import pytest

from tests.test_configs import ROOT
from tests.test_named_keys import OLD_KEYS, PROGRAMS, messages

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
EXPLAINED = [
    quoted
    for table in re.findall(r"^\| message \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    for row in table.splitlines()
    for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])
]

@pytest.fixture(scope="module")
def said():
    """Every message of the program."""
    return [text for path in (*PROGRAMS, OLD_KEYS) for _, text in messages(path.read_text(encoding="utf-8"))]


def is_said(quoted, texts):
    """Whether one message has the parts between the dots, in their order."""
    parts = [part.strip() for part in quoted.split("...") if part.strip()]
    return any(re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) for text in texts)


@pytest.mark.parametrize("quoted", EXPLAINED)
def test_the_program_says_it(quoted, said):
    assert is_said(quoted, said)


def test_every_table_of_messages_is_looked_at():
    assert len(EXPLAINED) >= 25 and "RESOURCE_EXHAUSTED" in EXPLAINED and len(set(EXPLAINED)) == len(EXPLAINED)


def test_messages_that_name_the_page_exist(said):
    naming = [text for text in said if "docs/troubleshooting.md" in text]
    assert len(naming) >= 3


def test_a_message_that_is_not_there_is_noticed(said):
    assert is_said("step ... of ... on SIGTERM", ["stopped at step \0 of \0 on SIGTERM; again"])
    assert not is_said("of ... step ... on SIGTERM", ["stopped at step \0 of \0 on SIGTERM; again"])
    assert not is_said("no such words", said)
