"""The page on reliability: every test that it names exists."""

import re

from tests.test_configs import ROOT


def test_tests_that_notice_silent_faults_exist():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = page.split("## Silent faults")[1].split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", section)
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"^\s*def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE), test
