"""Promise id templates of schedules (decisions.md 1: as they are, and nothing but two names)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.grammar import templates


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("foo.{{.timestamp}}", "foo.1700000000000"),
        ("{{.id}}/{{ .id }}/{{\t.timestamp\n}}", "a&b'<+>/a&b'<+>/1700000000000"),
        ("{.id}", "{.id}"),
        ("", ""),
    ],
)
def test_expansion(template: str, expected: str) -> None:
    assert templates.check(template) is None
    assert templates.expand(template, "a&b'<+>", 1_700_000_000_000) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{.name}}",
        "{{}}",
        "{{id}}",
        "{{.id",
        "x}}",
        "{{.id}}{{",
        '{{printf "%s" .id}}',
        "{{{.id}}}",
    ],
)
def test_everything_else_in_braces_is_refused(template: str) -> None:
    assert templates.check(template) is not None


@given(st.text(alphabet="{}.id x", max_size=30), st.text(alphabet="{}.id", max_size=8))
def test_a_template_that_passes_expands_to_a_text_without_its_placeholders(
    template: str, schedule_id: str
) -> None:
    """And the values are not looked at again: an id may itself look like a placeholder."""
    if templates.check(template) is None:
        marked = templates.expand(template, "\x00", 0)
        assert "{{" not in marked.replace("\x00", "")
        assert templates.expand(template, schedule_id, 0) == marked.replace("\x00", schedule_id)


@pytest.mark.parametrize(
    ("template", "begins"),
    [
        ("a.{{.timestamp}}", "a."),
        ("{{.id}}.{{.timestamp}}.x", "s/1."),
        ("{{.timestamp}}.{{.id}}", ""),
        ("a", "a"),
        ("{{ .id }}", "s/1"),
    ],
)
def test_what_all_runs_begin_with_is_known(template: str, begins: str) -> None:
    assert templates.beginning(template, "s/1") == begins
    assert templates.expand(template, "s/1", 42).startswith(begins)


@pytest.mark.parametrize("template", ["{{" + " " * 4_000, "{{ " * 2_000])
def test_no_template_takes_long_to_judge(template: str) -> None:
    begin_s = time.process_time()
    assert templates.check(template) is not None
    assert templates.beginning(template, "s/1") == template
    assert time.process_time() - begin_s < 1
