"""What likely secrets look like: tokens by their prefixes, keys by their armour, files by their names.

A rule of content has ``anchors``, one of which every match begins with: finding those is what costs time. Its
expression is tried at each. What the group ``secret`` matches is the secret, or else the whole match.
"""

from __future__ import annotations

import re

from lamina.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    id: str
    title: str
    anchors: tuple[bytes, ...]
    expression: re.Pattern[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRule:
    """For a file that is called like that (its last parts), in whose first bytes the expression matches."""

    id: str
    title: str
    name: re.Pattern[str]
    expression: re.Pattern[bytes]


# A token ends where its alphabet does; one that goes on is something else.
_END = rb"(?![A-Za-z0-9_-])"
_START = rb"(?<![A-Za-z0-9_-])"


def _rule(rule: str, title: str, anchors: str, expression: bytes) -> Rule:
    return Rule(id=rule, title=title, anchors=tuple(anchors.encode().split()),
                expression=re.compile(expression))


RULES = (
    # RFC 7468 (textual encodings); OpenSSH's PROTOCOL.key; RFC 9580, 6.2 (armour).
    Rule(
        id="private-key", title="private key", anchors=(b"-----BEGIN ",),
        expression=re.compile(
            rb"-----BEGIN (?:(?:RSA|DSA|EC|OPENSSH|ENCRYPTED|PGP|SSH2 ENCRYPTED) )?PRIVATE KEY"
            rb"(?: BLOCK)?-----"
            rb"(?:[\r\n \t]|\\[rn])+(?:[A-Za-z-]+: [^\r\n\\]{1,200}(?:[\r\n \t]|\\[rn])+){0,8}"
            rb"(?P<secret>[A-Za-z0-9+/]{16,}(?:[A-Za-z0-9+/=]|[\r\n \t]|\\[rn]){16,4000})"
        ),
    ),
    # PuTTY manual, appendix C (PPK file format).
    _rule("putty-key", "PuTTY private key", "PuTTY-User-Key-File-",
          rb"PuTTY-User-Key-File-[23]: [\w@.-]+\r?\n(?:[^\r\n]*\r?\n){3,40}?Private-Lines: \d+\r?\n"
          rb"(?P<secret>[A-Za-z0-9+/=]{16,})"),
    # age(1): Bech32 of 32 bytes behind AGE-SECRET-KEY-1.
    _rule("age-key", "age secret key", "AGE-SECRET-KEY-1",
          rb"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}(?![A-Z0-9])"),
    # AWS IAM User Guide, "Understanding unique ID prefixes"; base32 behind them.
    _rule("aws-access-key-id", "AWS access key ID", "AKIA ASIA",
          rb"(?<![A-Za-z0-9+/])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9+/=])"),
    # AWS CLI User Guide, "Configuration and credential file settings": 40 characters of base64.
    _rule("aws-secret-key", "AWS secret access key", "aws_secret_access_key AWS_SECRET_ACCESS_KEY",
          rb"(?i:aws_secret_access_key)[\"']?\s{0,4}[=:]\s{0,4}[\"']?"
          rb"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"),
    # GitHub Docs, "GitHub's token formats" and "Managing your personal access tokens".
    _rule("github-token", "GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_",
          _START + rb"gh[pousr]_[A-Za-z0-9]{36,251}" + _END),
    _rule("github-fine-grained-token", "GitHub fine-grained token", "github_pat_",
          _START + rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}" + _END),
    # GitLab Docs, "Token overview", token prefixes.
    _rule("gitlab-token", "GitLab token", "glpat- gldt- glrt- glptt- glcbt- glsoat- glft-",
          _START + rb"gl(?:pat|dt|rt|ptt|cbt|soat|ft)-[A-Za-z0-9_.-]{20,300}"),
    # Slack API, "Tokens": xoxb, xoxp, xoxe and older ones; "Incoming webhooks".
    _rule("slack-token", "Slack token", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxe",
          _START + rb"(?:xoxe\.)?xox[abeprs]-[0-9]{1,12}-[0-9A-Za-z-]{20,200}"),
    _rule("slack-app-token", "Slack app-level token", "xapp-",
          _START + rb"xapp-[0-9]-[A-Z0-9]{8,16}-[0-9]{8,16}-[0-9a-f]{32,80}" + _END),
    _rule("slack-webhook", "Slack webhook", "hooks.slack.com/services/",
          rb"hooks\.slack\.com/services/"
          rb"(?P<secret>T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{20,28})" + _END),
    # Stripe Docs, "API keys"; "Verify webhook signatures".
    _rule("stripe-key", "Stripe live key", "sk_live_ rk_live_",
          _START + rb"[sr]k_live_[A-Za-z0-9]{24,247}" + _END),
    _rule("stripe-webhook", "Stripe webhook secret", "whsec_",
          _START + rb"whsec_[A-Za-z0-9+/]{32,64}(?![A-Za-z0-9+/])"),
    # Google Cloud, "Authenticate by using API keys"; "OAuth client secrets"; "Service account keys".
    _rule("google-api-key", "Google API key", "AIza", _START + rb"AIza[A-Za-z0-9_-]{35}" + _END),
    _rule("google-oauth-secret", "Google OAuth client secret", "GOCSPX-",
          _START + rb"GOCSPX-[A-Za-z0-9_-]{28}" + _END),
    _rule("google-service-account", "Google service account key", '"private_key_id"',
          rb"\"private_key_id\"\s{0,8}:\s{0,8}\"(?P<secret>[0-9a-f]{40})\""),
    # npm Docs, "About access tokens" and "npmrc".
    _rule("npm-token", "npm token", "npm_", _START + rb"npm_[A-Za-z0-9]{36}" + _END),
    _rule("npm-auth", "npm registry credentials", "_authToken _password",
          rb"(?<=:)_(?:authToken|password)\s{0,4}=\s{0,4}[\"']?(?P<secret>[A-Za-z0-9_+/=.-]{8,400})"),
    # pypi.org help, "How can I use API tokens?": a macaroon for pypi.org behind the prefix.
    _rule("pypi-token", "PyPI token", "pypi-AgEIcHlwaS5vcmc",
          _START + rb"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,400}"),
    # RFC 7519, 3.1: two JSON objects and a signature, each base64url.
    _rule("jwt", "JSON web token", "eyJ",
          _START + rb"eyJ[A-Za-z0-9_-]{10,1000}\.eyJ[A-Za-z0-9_-]{10,3000}\.[A-Za-z0-9_-]{20,1000}"),
    # Docker Docs, "Personal access tokens", "Organization access tokens"; config.json of docker login.
    _rule("docker-hub-token", "Docker Hub token", "dckr_pat_ dckr_oat_",
          _START + rb"dckr_[po]at_[A-Za-z0-9_-]{27,60}"),
    _rule("docker-auths", "registry credentials of docker login", '"auths"',
          rb"\"auths\"\s{0,40}:\s{0,40}\{[^{}]{0,400}\{[^{}]{0,400}\"auth\"\s{0,40}:\s{0,40}"
          rb"\"(?P<secret>[A-Za-z0-9+/]{6,2000}={0,2})\""),
    # Kubernetes reference, kubeconfig (v1): base64 of a PEM key.
    _rule("kubeconfig", "client key of a kubeconfig", "client-key-data",
          rb"client-key-data[\"']?\s{0,4}:\s{0,4}[\"']?(?P<secret>[A-Za-z0-9+/]{60,4000})"),
    # DigitalOcean API reference, "Authentication".
    _rule("digitalocean-token", "DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_",
          _START + rb"do[por]_v1_[0-9a-f]{64}" + _END),
    # Hugging Face Docs, "User access tokens".
    _rule("huggingface-token", "Hugging Face token", "hf_", _START + rb"hf_[A-Za-z]{34}" + _END),
    # OpenAI and Anthropic, API reference, "Authentication".
    _rule("openai-key", "OpenAI key", "sk-proj- sk-svcacct- sk-admin-",
          _START + rb"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,100}T3BlbkFJ[A-Za-z0-9_-]{20,100}"),
    _rule("anthropic-key", "Anthropic key", "sk-ant-",
          _START + rb"sk-ant-(?:api|admin|oat)[0-9]{2}-[A-Za-z0-9_-]{80,120}" + _END),
    # SendGrid Docs, "API keys": two parts of 22 and 43 characters.
    _rule("sendgrid-key", "SendGrid key", "SG.",
          _START + rb"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}" + _END),
    # Vault documentation, "Tokens", token prefixes.
    _rule("vault-token", "Vault token", "hvs. hvb.", _START + rb"hv[sb]\.[A-Za-z0-9_-]{24,300}"),
    # Azure documentation, "Configure Azure Storage connection strings": 64 bytes in base64.
    _rule("azure-storage-key", "Azure storage account key", "AccountKey=",
          rb"AccountKey=(?P<secret>[A-Za-z0-9+/]{86}==)"),
    # Shopify developer documentation, "Access tokens".
    _rule("shopify-token", "Shopify token", "shpat_ shpca_ shppa_ shpss_",
          _START + rb"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}" + _END),
)

# Names of settings that hold secrets, as people choose them.
_TELLING = (
    rb"[A-Z0-9_]{0,40}(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY)"
    rb"(?:_[A-Z0-9]{1,20})?"
)
_VALUE = rb"(?P<secret>[^\s\"'$<{#;&|][^\s\"';&|]{5,500})"
# In environment variables, arguments and instructions.
ASSIGNMENT = re.compile(rb"(?<![A-Za-z0-9_.])" + _TELLING + rb"=[\"']?" + _VALUE)


def _file_rule(rule: str, title: str, name: str, expression: bytes) -> FileRule:
    return FileRule(id=rule, title=title, name=re.compile(rf"(?:^|/)(?:{name})\Z"),
                    expression=re.compile(expression, re.MULTILINE))


FILE_RULES = (
    # Compose specification, "env_file": NAME=VALUE lines. Samples are named so.
    _file_rule("env-file", "secret in an .env file", r"\.env(?:\.(?!example|sample|template|dist)\w+)?",
               rb"^(?:export\s{1,4})?" + _TELLING + rb"\s{0,4}=\s{0,4}[\"']?" + _VALUE),
    # GNU inetutils manual, "The .netrc file".
    _file_rule("netrc", "password in .netrc", r"[._]netrc", rb"\bpassword\s{1,8}(?P<secret>\S{1,200})"),
    # git-credential-store(1).
    _file_rule("git-credentials", "password in .git-credentials", r"\.git-credentials|git/credentials",
               rb"^https?://[^\s:/@]{1,200}:(?P<secret>[^\s@]{1,400})@"),
    # PostgreSQL documentation, "The password file".
    _file_rule("pgpass", "password in .pgpass", r"\.pgpass",
               rb"^[^#:\n][^:\n]{0,200}(?::[^:\n]{0,200}){3}:(?P<secret>[^\n]{1,400})$"),
    # MySQL reference manual, "Using option files".
    _file_rule("my-cnf", "password in .my.cnf", r"\.my(?:login)?\.cnf",
               rb"^\s{0,8}password\s{0,4}=\s{0,4}[\"']?(?P<secret>[^\s\"']{1,200})"),
    # Python packaging specifications, "The .pypirc file".
    _file_rule("pypirc", "password in .pypirc", r"\.pypirc",
               rb"^\s{0,8}password\s{0,4}[:=]\s{0,4}(?P<secret>\S{1,400})"),
    # npm Docs, "npmrc", auth related configuration: without a registry before it, as old versions wrote.
    _file_rule("npmrc", "credentials in .npmrc", r"\.npmrc",
               rb"^_(?:auth|authToken|password)\s{0,4}=\s{0,4}[\"']?(?P<secret>[A-Za-z0-9_+/=.-]{8,400})"),
    # docker login before 1.7 wrote .dockercfg without "auths".
    _file_rule("dockercfg", "registry credentials in .dockercfg", r"\.dockercfg",
               rb"\"auth\"\s{0,40}:\s{0,40}\"(?P<secret>[A-Za-z0-9+/]{6,2000}={0,2})\""),
    # Kubernetes reference, kubeconfig (v1), AuthInfo.
    _file_rule("kubeconfig-user", "token or password of a kubeconfig", r"\.kube/config|kubeconfig",
               rb"^\s{0,40}(?:token|password)\s{0,4}:\s{0,4}[\"']?(?P<secret>[^\s\"']{8,4000})"),
    # Google Cloud, "How Application Default Credentials works".
    _file_rule("gcloud-credentials", "Google application default credentials",
               r"gcloud/(?:application_default_credentials|legacy_credentials/[^/]+/adc)\.json",
               rb"\"refresh_token\"\s{0,8}:\s{0,8}\"(?P<secret>[^\"\s]{20,400})\""),
    # shadow(5) and crypt(5): a hash with a salt, for a user who can log in with a password.
    _file_rule("shadow", "password hash in shadow", r"etc/shadow-?",
               rb"^[^:\n]{1,64}:(?P<secret>\$[0-9a-z]{1,8}\$[^:\n]{16,200}):"),
)

# Documentation and tests use these in place of secrets.
_PLACEHOLDERS = (
    b"example", b"placeholder", b"changeme", b"change_me", b"change-me", b"redacted", b"xxxxxxxx",
)


def is_placeholder(secret: bytes) -> bool:
    """Not one that somebody could use: it says so, or is one character again and again."""
    lowered = secret.lower()
    return any(word in lowered for word in _PLACEHOLDERS) or len(set(secret)) < 4
