"""The Go templates of ``--format``: golden pairs, and what mistakes say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cli.functions import TemplateError
from lamina.cli.template import Template

IMAGE: dict[str, Any] = {
    "Id": "sha256:abc",
    "RepoTags": ["redis:7", "redis:latest"],
    "Size": 1234,
    "Os": "linux",
    "Empty": "",
    "Nothing": None,
    "IsOfficial": True,
    "Config": {
        "Cmd": ["redis-server", "--save"],
        "Labels": {"org.example.title": "Redis", "b": "2"},
        "ExposedPorts": {"6379/tcp": {}, "1/udp": {}},
        "Env": None,
    },
    "RootFS": {"Type": "layers", "Layers": ["sha256:1", "sha256:2"]},
}


@pytest.mark.parametrize(("source", "expected"), [
    ("plain text", "plain text"),
    ("{{.Id}}", "sha256:abc"),
    ("{{ .Id }}", "sha256:abc"),
    ("{{.Config.Cmd}}", "[redis-server --save]"),
    ("{{.RootFS.Type}}/{{.Os}}", "layers/linux"),
    ("{{$.Os}}", "linux"),
    ("{{.Size}}", "1234"),
    ("{{.IsOfficial}}", "true"),
    ("{{.Nothing}}", "<no value>"),
    ("{{.Config.Labels}}", "map[b:2 org.example.title:Redis]"),
    ("{{.Config.Labels.b}} {{.Config.Labels.c}}", "2 <no value>"),
    ("{{.Config.Env.Whatever}}", "<no value>"),
    ('{{index .Config.Labels "org.example.title"}}', "Redis"),
    ('{{index .Config.Labels "absent"}}|', "|"),
    ("{{index .RootFS.Layers 1}}", "sha256:2"),
    ("{{(index .RepoTags 0)}}", "redis:7"),
    ("{{json .RepoTags}}", '["redis:7","redis:latest"]'),
    ("{{.RepoTags | json}}", '["redis:7","redis:latest"]'),
    ("{{json .Nothing}}", "null"),
    ('{{join .RepoTags ", "}}', "redis:7, redis:latest"),
    ('{{range split "a/b/c" "/"}}<{{.}}>{{end}}', "<a><b><c>"),
    ('{{lower "ABC"}} {{upper .Os}} {{title "a redis"}}', "abc LINUX A Redis"),
    ("{{pad .Os 2 3}}|{{pad .Empty 2 3}}|", "  linux   ||"),
    ("{{truncate .Id 6}}", "sha256"),
    ("{{truncate .Id 60}}", "sha256:abc"),
    ("{{len .RepoTags}} {{len .Os}} {{len .Nothing}}", "2 5 0"),
    ("{{slice .Id 0 6}}", "sha256"),
    ("{{println .Os}}-", "linux\n-"),
    ('{{print 1 2 "x" 3}}', "1 2x3"),
    ('{{printf "%-8s|%5d|%s|%q|%v%%" .Os .Size .IsOfficial .Os .RepoTags}}',
     'linux   | 1234|true|"linux"|[redis:7 redis:latest]%'),
    ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
    ('{{if eq .Os "linux" "windows"}}yes{{end}}', "yes"),
    ('{{if eq .Os "mac"}}a{{else if gt .Size 1000}}b{{else}}c{{end}}', "b"),
    ("{{if and .Os (not .Empty)}}both{{end}}", "both"),
    ("{{or .Empty .Os}}", "linux"),
    ("{{and .Empty .Os}}|", "|"),
    ("{{ne .Size 1}} {{lt .Size 1}} {{le 1 1}} {{ge 1 2}}", "true false true false"),
    ("{{range .RepoTags}}{{.}};{{end}}", "redis:7;redis:latest;"),
    ("{{range $i, $tag := .RepoTags}}{{$i}}={{$tag}} {{end}}", "0=redis:7 1=redis:latest "),
    ("{{range $port, $none := .Config.ExposedPorts}}{{$port}} {{end}}", "1/udp 6379/tcp "),
    ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
    ("{{range .RepoTags}}{{$.Os}} {{end}}", "linux linux "),
    ("{{range .RepoTags}}{{.}}{{break}}{{end}}", "redis:7"),
    ('{{range .RepoTags}}{{if eq . "redis:7"}}{{continue}}{{end}}{{.}}{{end}}', "redis:latest"),
    ("{{with .Config}}{{.Cmd}}{{end}}", "[redis-server --save]"),
    ("{{with .Empty}}a{{else}}{{.Os}}{{end}}", "linux"),
    ("{{with $x := .Os}}{{$x}}{{end}}", "linux"),
    ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
    ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
    ("a {{- .Os -}} b", "alinuxb"),
    ("a{{/* nothing }} here */}}b", "ab"),
    ('{{"}}"}}', "}}"),
    ("{{`raw \\n`}}", "raw \n"),
    ('{{"a\\tb"}}', "a\tb"),
    ("{{.Os}}\\t{{.Size}}\\n", "linux\t1234\n"),
    ("{{0x10}} {{-5}} {{1.5}} {{'a'}} {{true}} {{nil}}", "16 -5 1.5 97 true <no value>"),
    ("{{range 3}}{{.}}{{end}}", "012"),
    ("", ""),
])
def test_golden(source: str, expected: str) -> None:
    assert Template(source).render(IMAGE) == expected


@pytest.mark.parametrize(("source", "message"), [
    ("{{.Arch}}", "no field .Arch; there are .Config, .Empty, .Id"),
    ("{{.Repotags}}", "no field .Repotags; did you mean .RepoTags?"),
    ("{{.Config.cmd}}", "no field .cmd; did you mean .Cmd?"),
    ("{{.Os.Name}}", ".Name: 'linux' has no fields"),
    ("{{jsn .}}", "unknown function 'jsn'; did you mean json?"),
    ("{{.Os", "{{ without }}"),
    ("{{if .Os}}x", "{{if}} without {{end}}"),
    ("{{if .Os}}a{{else}}b", "{{if}} without {{end}}"),
    ("x{{end}}", "{{end}} without a block"),
    ("{{else}}", "{{else}} without a block"),
    ("{{if .Os}}a{{else nonsense}}b{{end}}", "cannot read {{else nonsense}}"),
    ("{{}}", "expected an expression"),
    ("{{.Os | }}", "expected an expression"),
    ("{{(.Os}}", "expected a closing parenthesis"),
    ("{{.Os)}}", "did not expect ')'"),
    ("{{.Os .Id}}", "'.Os' is not a function"),
    ("{{$x}}", "undefined variable $x"),
    ("{{break}}", "{{break}} outside of a range"),
    ('{{template "x"}}', "'template' is not supported"),
    ("{{.Os ? 1}}", "cannot read '? 1'"),
    ("{{index .RepoTags 9}}", "index: 9 is out of range (there are 2)"),
    ("{{index .Os .Os}}", "index: cannot look up"),
    ('{{join .Os ","}}', "join: expected a list"),
    ("{{range .Os}}{{end}}", "range cannot walk 'linux'"),
    ("{{lower .Size}}", "expected a string, got '1234'"),
    ("{{pad .Os 2}}", "pad: missing 1 required positional argument"),
    ("{{pad .Os 2 999999999}}", "expected a number from 0 to 10000"),
    ("{{eq .Os}}", "eq: expected at least two operands"),
    ("{{eq .Os 1}}", "eq: cannot compare 'linux' with '1'"),
    ("{{lt .Os 1}}", "lt: cannot compare"),
    ("{{slice .Os 3 2}}", "slice: 3:2 is out of range"),
    ("{{len .Size}}", "len: '1234' has no length"),
    ("{{if true}}" * 200, "more than 100 blocks inside each other"),
])
def test_mistakes_say_what_is_wrong(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source).render(IMAGE)
    assert message in str(caught.value)
    assert str(caught.value).startswith("template: ")


def test_what_an_image_says_is_made_visible_but_line_ends_stay() -> None:
    assert Template("{{.A}}").render({"A": "\x1b[31mred\nsecond\u202e"}) == "\\x1b[31mred\nsecond\\u202e"
    assert Template("{{json .A}}").render({"A": "\x1b"}) == '"\\u001b"'


def test_the_persons_own_text_stays_as_it_is() -> None:
    assert Template("\x1b[1m{{.A}}\x1b[0m").render({"A": "x"}) == "\x1b[1mx\x1b[0m"


def test_one_template_renders_many_values_independently() -> None:
    template = Template("{{$x := .A}}{{$x}}")
    assert [template.render({"A": number}) for number in (1, 2)] == ["1", "2"]


@given(st.text(alphabet='{}.|()$"`-abcdef range end if else 0\\', max_size=60))
def test_any_text_renders_or_is_refused_in_one_sentence(source: str) -> None:
    try:
        assert isinstance(Template(source).render(IMAGE), str)
    except TemplateError as error:
        assert str(error).startswith("template: ")  # noqa: PT017 - either outcome is fine


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.text(), inner)))
def test_any_value_prints(value: Any) -> None:
    assert Template("{{json .}}{{.}}").render(value).replace("\n", "").replace("\t", "").isprintable()
