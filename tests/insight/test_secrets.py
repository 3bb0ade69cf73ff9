"""Rules for likely secrets: each finds what it is for, and not what only looks like it. Fakes are put together
here, so that no scanner takes this file for a leak."""

from __future__ import annotations

import io

import pytest
from tests.insight.planted import Planted, layer_of

from lamina.image import Image
from lamina.insight.leaks import Leak, Leaks, find_leaks, hushed
from lamina.insight.rules import FILE_RULES, RULES
from lamina.layer.entry import Entry
from lamina.testing.images import MadeLayer, directory, file, make_image, whiteout

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def some(length: int, alphabet: str = LETTERS) -> str:
    """Characters without a pattern that a rule could take for a placeholder."""
    return "".join(alphabet[(7 * number * number + 3 * number) % len(alphabet)] for number in range(length))


HEX, UPPER, DIGITS = "0123456789abcdef", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789"
BODY = "\n".join(some(64) for _ in range(6))

# rule -> what it must find, and what it must not
CONTENT: dict[str, tuple[list[str], list[str]]] = {
    "private-key": (
        [f"-----BEGIN {kind}PRIVATE KEY-----\n{BODY}\n-----END {kind}PRIVATE KEY-----" for kind in
         ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")]
        + [f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n{BODY}"]
        + ["-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + BODY, "-----BEGIN PRIVATE KEY-----\\n" + some(64) + "\\n" + some(64)],
        ["-----BEGIN PRIVATE KEY-----", "'-----BEGIN RSA PRIVATE KEY-----' in text", f"-----BEGIN PUBLIC KEY-----\n{BODY}",
         f"-----BEGIN CERTIFICATE-----\n{BODY}"],
    ),
    "putty-key": (
        ["PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: me\nPublic-Lines: 1\n" + some(40)
         + "\nPrivate-Lines: 1\n" + some(48)],
        ["PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"],
    ),
    "age-key": (["AGE-SECRET-" + "KEY-1" + some(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")],
                ["AGE-SECRET-" + "KEY-1" + some(57, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")]),
    "aws-access-key-id": (["AKIA" + some(16, UPPER), "key=ASIA" + some(16, UPPER)],
                          ["AKIA" + some(15, UPPER), "AKIA" + some(17, UPPER), "AKIAIOSFODNN7" + "EXAMPLE", "xAKIA" + some(16, UPPER)]),
    "aws-secret-key": (["aws_secret_access_" + "key = " + some(40), "AWS_SECRET_ACCESS_" + 'KEY="' + some(40) + '"'],
                       ["aws_secret_access_" + "key = " + some(39), "aws_secret_access_" + "key = ${X}"]),
    "github-token": (["gh" + kind + "_" + some(36) for kind in "pousr"], ["ghp_" + some(20), "xghp_" + some(36)]),
    "github-fine-grained-token": (["github_" + "pat_" + some(22) + "_" + some(59)], ["github_" + "pat_" + some(82)]),
    "gitlab-token": (["glpat" + "-" + some(20), "glrt" + "-" + some(24)], ["glpat" + "-" + some(12)]),
    "slack-token": (["xoxb" + "-" + some(12, DIGITS) + "-" + some(12, DIGITS) + "-" + some(24),
                     "xoxe." + "xoxp-1-" + some(90)], ["xoxb" + "-token", "xoxb" + "-" + some(12, DIGITS)]),
    "slack-app-token": (["xapp" + "-1-A" + some(10, UPPER) + "-" + some(13, DIGITS) + "-" + some(64, HEX)],
                        ["xapp" + "-1-A" + some(10, UPPER)]),
    "slack-webhook": (["https://hooks.slack.com/" + "services/T" + some(9, UPPER) + "/B" + some(9, UPPER) + "/" + some(24)],
                      ["https://hooks.slack.com/" + "services/T00/B00/x"]),
    "stripe-key": (["sk_" + "live_" + some(24), "rk_" + "live_" + some(99)], ["sk_" + "live_" + some(10), "sk_" + "test_" + some(24)]),
    "stripe-webhook": (["whsec" + "_" + some(32)], ["whsec" + "_" + some(12)]),
    "google-api-key": (["AIza" + some(35)], ["AIza" + some(34), "AIza" + some(36)]),
    "google-oauth-secret": (["GOCSPX" + "-" + some(28)], ["GOCSPX" + "-" + some(20)]),
    "google-service-account": (['"private_key_' + 'id": "' + some(40, HEX) + '"'], ['"private_key_' + 'id": "..."']),
    "npm-token": (["npm" + "_" + some(36)], ["npm" + "_config_registry_and_some_more_letters", "npm" + "_" + some(35)]),
    "npm-auth": (["//registry.test/:_auth" + "Token=" + some(36)], ["//registry.test/:_auth" + "Token=${NPM}", "x_auth" + "Token=" + some(36)]),
    "pypi-token": (["pypi" + "-AgEIcHlwaS5vcmc" + some(80)], ["pypi" + "-AgEIcHlwaS5vcmc" + some(9)]),
    "jwt": (["eyJ" + some(20) + ".eyJ" + some(40) + "." + some(43)], ["eyJ" + some(20) + ".eyJ" + some(40), "eyJ" + some(90)]),
    "docker-hub-token": (["dckr_" + "pat_" + some(27)], ["dckr_" + "pat_" + some(9)]),
    "docker-auths": (['{"au' + 'ths": {"https://index.docker.io/v1/": {"auth": "' + some(24) + '=="}}}'],
                     ['{"au' + 'ths": {"https://index.docker.io/v1/": {}}}']),
    "kubeconfig": (["    client-key-" + "data: " + some(400)], ["    client-key-" + "data: DATA+OMITTED"]),
    "digitalocean-token": (["dop_" + "v1_" + some(64, HEX)], ["dop_" + "v1_" + some(60, HEX)]),
    "huggingface-token": (["hf" + "_" + some(34, LETTERS[:52])], ["hf" + "_" + some(20), "shelf" + "_" + some(34, LETTERS[:52])]),
    "openai-key": (["sk-" + "proj-" + some(60) + "T3Blbk" + "FJ" + some(60)], ["sk-" + "proj-" + some(60)]),
    "anthropic-key": (["sk-" + "ant-api03-" + some(93) + "AA"], ["sk-" + "ant-api03-" + some(20)]),
    "sendgrid-key": (["SG" + "." + some(22) + "." + some(43)], ["SG" + "." + some(22) + ".x"]),
    "vault-token": (["hvs" + "." + some(40)], ["hvs" + ".x"]),
    "azure-storage-key": (["Account" + "Key=" + some(86) + "=="], ["Account" + "Key=" + some(80)]),
    "shopify-token": (["shpat" + "_" + some(32, HEX)], ["shpat" + "_" + some(30, HEX)]),
}

# rule -> path, content that it finds, the same with nothing in it to find; a path that is none
FILES: dict[str, tuple[str, str, str, str]] = {
    "env-file": ("app/.env", "DEBUG=1\nDB_PASS" + "WORD=s3cr-et9\n", "DEBUG=1\nDB_PASSWORD=${DB}\nTOKEN=\n", "app/.env.example"),
    "netrc": ("root/.netrc", "machine h login me pass" + "word s3cr-et9\n", "machine h login me\n", "root/netrc.txt"),
    "git-credentials": ("root/.git-credentials", "https://me:s3cr-" + "et9@git.test\n", "https://git.test\n", "root/credentials"),
    "pgpass": ("root/.pgpass", "#host\nh:5432:db:me:s3cr-" + "et9\n", "#h:5432:db:me:pw\n", "root/pgpass"),
    "my-cnf": ("root/.my.cnf", "[client]\npass" + "word = s3cr-et9\n", "[client]\nuser=me\n", "etc/my.cnf"),
    "pypirc": ("root/.pypirc", "[pypi]\npass" + "word: s3cr-et9\n", "[pypi]\nusername: me\n", "root/pypirc"),
    "npmrc": ("root/.npmrc", "_au" + "th=" + some(24) + "\n", "registry=https://r.test\n_auth=${X}\n", "root/npmrc"),
    "dockercfg": ("root/.dockercfg", '{"https://i": {"au' + 'th": "' + some(24) + '"}}', "{}", "root/dockercfg"),
    "kubeconfig-user": ("root/.kube/config", "users:\n- user:\n    tok" + "en: " + some(30), "users: []\n", "root/config"),
    "gcloud-credentials": ("root/.config/gcloud/application_default_credentials.json",
                           '{"refresh_' + 'token": "' + some(50) + '"}', "{}", "root/adc.json"),
    "shadow": ("etc/shadow", "root:$6$" + some(8) + "$" + some(86) + ":19000::\n", "root:*:19000::\nme:!:1::\n", "etc/passwd"),
}


def look(*layers: MadeLayer, execution: dict[str, object] | None = None) -> Leaks:
    planted = Planted(keeps_tars=True)
    image = Image.load(planted.store, planted.put(make_image(layers, execution=execution)), None)

    def open_data(layer: int, entry: Entry) -> io.BytesIO:
        tar = planted.tars[image.layers[layer].diff_id]
        return io.BytesIO(tar[entry.data_offset : entry.data_offset + entry.size])

    return find_leaks(image, planted.content(), open_data)


def rules_of(data: str, path: str = "opt/f") -> list[str]:
    return [leak.rule for leak in look(layer_of({path: data.encode()})).leaks]


def test_every_rule_has_a_case() -> None:
    assert list(CONTENT) == [rule.id for rule in RULES]
    assert list(FILES) == [rule.id for rule in FILE_RULES]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, (good, _bad) in CONTENT.items() for text in good])
def test_found(rule: str, text: str) -> None:
    assert rule in rules_of(f"# settings\nvalue: {text}\n")
    assert rule in rules_of(text)


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, (_good, bad) in CONTENT.items() for text in bad])
def test_near_misses(rule: str, text: str) -> None:
    assert rules_of(f"# settings\nvalue: {text}\n") == []


@pytest.mark.parametrize("rule", FILES)
def test_files_by_name(rule: str) -> None:
    path, good, empty, other = FILES[rule]
    assert rules_of(good, path) == [rule]
    assert rules_of(empty, path) == []
    assert rules_of(good, other) == []


@pytest.mark.parametrize("value", ["AKIAIOSFODNN7" + "EXAMPLE", "AKIA" + "A" * 16])
def test_placeholders(value: str) -> None:
    assert rules_of(value) == []


TOKEN = "gh" + "p_" + some(36)


def only(found: Leaks) -> Leak:
    (leak,) = found.leaks
    return leak


def test_where_it_is_and_who_hides_it() -> None:
    lower = layer_of([directory("root"), file("root/t", f"one\ntwo\n x={TOKEN}\n".encode())], by="COPY . /")
    leak = only(look(lower, layer_of([whiteout("root/t")], by="RUN rm /root/t")))
    assert (leak.rule, leak.title, leak.preview, leak.size, leak.line) == (
        "github-token", "GitHub token", "ghp_…", 40, 3)
    finding = leak.finding
    assert (str(finding.place), finding.path, finding.layer, finding.offset) == ("obscured file", "/root/t", 0, 11)
    assert finding.hidden_by is not None
    assert (finding.hidden_by.layer, finding.hidden_by.instruction) == (1, "RUN rm /root/t")


def test_binary_files_have_offsets() -> None:
    leak = only(look(layer_of({"bin/x": b"\x7fELF\0\n\n" + TOKEN.encode() + b"\0"})))
    assert (leak.line, leak.finding.offset) == (None, 7)


def test_settings_and_history() -> None:
    layer = layer_of({"a": b"1"}, by=f"RUN API_TOKEN={some(20)} build")
    found = look(layer, execution={"Env": ["PATH=/bin", "DB_PASS" + "WORD=s3cr-et9", f"GH={TOKEN}", "GPG_KEY=" + some(40)],
                                   "Labels": {"token": TOKEN}})
    assert sorted((leak.rule, str(leak.finding.place), leak.finding.field) for leak in found.leaks) == [
        ("assignment", "config", "config.Env[1]"),
        ("assignment", "history", "history[0].created_by"),
        ("github-token", "config", "config.Env[2]"),
        ("github-token", "label", "config.Labels.token"),
    ]


def test_a_token_in_a_telling_variable_is_told_once() -> None:
    found = look(layer_of({"a": b"1"}), execution={"Env": [f"GITHUB_TOKEN={TOKEN}"]})
    assert [leak.rule for leak in found.leaks] == ["github-token"]


def test_no_answer_holds_the_secret() -> None:
    layers = (layer_of([file("t", TOKEN.encode())], by=f"RUN echo {TOKEN} > t && APP_SECRET=hush-hush1 make"),
              layer_of([whiteout("t")], by=f"RUN echo {TOKEN}"))
    shown = repr(look(*layers, execution={"Labels": {TOKEN: "x"}}).leaks)
    assert TOKEN not in shown
    assert "hush-hush1" not in shown
    assert "ghp_…" in shown
    assert hushed(f"RUN curl {TOKEN}") == "RUN curl ghp_…"


def test_a_clean_image() -> None:
    found = look(layer_of({"etc/motd": b"hello", ".env": b"A=1\n"}), execution={"Env": ["PATH=/bin"]})
    assert (found.leaks, found.undecided) == ((), ())
    assert found.bytes_searched > 3000


def test_what_cannot_be_unpacked_is_undecided() -> None:
    planted = Planted()
    image = Image.load(planted.store, planted.put(make_image([layer_of({"a": b"1"})])), None)
    planted.tars.clear()
    found = find_leaks(image, planted.content(), lambda _layer, _entry: io.BytesIO())
    assert [gap.layer for gap in found.undecided] == [0]
