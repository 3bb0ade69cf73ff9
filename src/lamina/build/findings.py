"""The build checks by name, and what they found. The names are BuildKit's: one directive fits both."""

from __future__ import annotations

from lamina.build.failure import Span, sentence
from lamina.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.build.syntax import CheckDirective

RULES = {
    "StageNameCasing": "The name of a stage is in lower case.",
    "FromAsCasing": "AS is written in the case of its FROM.",
    "NoEmptyContinuation": "No empty line stands within an instruction; a later version may refuse it.",
    "ConsistentInstructionCasing": "All instructions are written in one case, upper or lower.",
    "DuplicateStageName": "No two stages have one name.",
    "ReservedStageName": "No stage is called as something else is already: scratch or context.",
    "JSONArgsRecommended": "CMD and ENTRYPOINT have the exec form; a shell keeps signals from the program.",
    "MaintainerDeprecated": "MAINTAINER is out of use: org.opencontainers.image.authors is a label for it.",
    "UndefinedArgInFrom": "What FROM names with a $ was declared by an ARG before the first FROM.",
    "WorkdirRelativePath": "A relative WORKDIR follows an absolute one, and so does not hang on the base.",
    "UndefinedVar": "A variable was set by ENV or declared by ARG before it is used.",
    "MultipleInstructionsDisallowed": "CMD, ENTRYPOINT, HEALTHCHECK: once in a stage, for the last counts.",
    "LegacyKeyValueFormat": "ENV and LABEL have an = between name and value.",
    "InvalidBaseImagePlatform": "The base image is for the platform that is built for.",
    "RedundantTargetPlatform": "FROM does not ask for $TARGETPLATFORM, which it takes anyway.",
    "SecretsUsedInArgOrEnv": "No secret is in ARG or ENV, which images keep: RUN --mount=type=secret.",
    "InvalidDefaultArgInFrom": "FROM names an image even if no build argument is given.",
    "FromPlatformFlagConstDisallowed": "FROM asks for no fixed platform, unless the stage is named for it.",
    "CopyIgnoredFile": "What COPY and ADD name is not excluded by .dockerignore.",
    "InvalidDefinitionDescription": "A comment right above a stage or an ARG begins with the name of that.",
    "ExposeProtoCasing": "The protocol of EXPOSE is in lower case.",
    "ExposeInvalidFormat": "EXPOSE names ports of the container alone: no address, no port of the host.",
}
_EXPERIMENTAL = {"InvalidDefinitionDescription"}  # runs only where a directive asks for it
_WITHOUT_PAGE = {"InvalidBaseImagePlatform"}
_PAGES = "https://docs.docker.com/reference/build-checks/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``message`` is of this place, ``description`` of the rule, ``url`` Docker's page of it or ``""``."""

    rule: str
    message: str
    span: Span
    url: str
    description: str


class Findings:
    """What was found so far, without what the directive skips."""

    def __init__(self, directive: CheckDirective) -> None:
        skipped = set(RULES) if directive.skips_all else {name for name in RULES if name in directive.skip}
        asked = set(RULES) if directive.runs_experimental else set(directive.experimental)
        self._silent = skipped | (_EXPERIMENTAL - asked)
        self._found: list[Finding] = []

    def add(self, rule: str, message: str, span: Span) -> None:
        if rule not in self._silent:
            self._found.append(Finding(
                rule=rule, message=sentence(message), span=span, url=url(rule), description=RULES[rule],
            ))

    def sorted(self) -> tuple[Finding, ...]:
        order = list(RULES)
        return tuple(sorted(self._found, key=lambda one: (one.span.first, order.index(one.rule))))


def url(rule: str) -> str:
    if rule in _WITHOUT_PAGE:
        return ""
    name = rule.replace("JSON", "Json")
    return _PAGES + "".join(f"-{one.lower()}" if one.isupper() else one for one in name).lstrip("-") + "/"
