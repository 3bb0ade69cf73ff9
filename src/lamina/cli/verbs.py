"""The verbs: which there are, under which names and headings, and what one consists of.

Only the names and one line each stand here, so that an overview costs nothing. The rest of a verb is in
the module that the table names, which is imported when the verb is asked for, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments, VerbParser
    from lamina.cli.session import Session


class Verb:
    """``run`` answers with an exit code, ``None`` for 0.

    ``command`` says where a command of the user's own begins: ``"--"`` after that mark alone, ``"first"``
    at the first word that is no option, ``"after"`` behind that word, ``"all"`` at once. ``trouble`` is the
    exit code for a failure.
    """

    __slots__ = ("about", "arguments", "command", "examples", "run", "trouble", "usage")

    def __init__(
        self,
        run: Callable[[Arguments, Session], int | None],
        *,
        usage: str,
        about: str,
        examples: Sequence[str],
        arguments: Callable[[VerbParser], None] | None = None,
        command: str = "",
        trouble: int = 1,
    ) -> None:
        self.run = run
        self.usage = usage
        self.about = about
        self.examples = tuple(examples)
        self.arguments = arguments
        self.command = command
        self.trouble = trouble


# heading -> name of the verb -> (module, name in it, one line)
HEADINGS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Images in and out": {
        "pull": ("registry", "PULL", "Download an image from a registry"),
        "push": ("registry", "PUSH", "Upload an image to a registry"),
        "save": ("archives", "SAVE", "Write images to an archive"),
        "load": ("archives", "LOAD", "Read images from an archive or an OCI layout"),
        "import": ("archives", "IMPORT", "Make an image of a root filesystem"),
        "export": ("archives", "EXPORT", "Write the filesystem of a container or image as one tar"),
    },
    "Building": {
        "build": ("building", "BUILD", "Build an image from a Dockerfile"),
        "context ls": ("context", "LS", "Show what a build would see of a directory, and what not and why"),
        "builder du": ("builder", "DU", "Show what the build cache takes"),
        "builder prune": ("builder", "PRUNE", "Remove build cache that nothing uses"),
        "builder sbom": ("builder", "SBOM", "Print what an image is made of, as its build found it"),
    },
    "Containers": {
        "run": ("running", "RUN", "Run a command in a new container"),
        "create": ("running", "CREATE", "Make a container without starting it"),
        "start": ("running", "START", "Start containers that do not run"),
        "stop": ("lifecycle", "STOP", "Ask containers to end, and kill those that do not"),
        "restart": ("lifecycle", "RESTART", "Stop containers and start them again"),
        "kill": ("lifecycle", "KILL", "Send a signal to containers"),
        "wait": ("lifecycle", "WAIT", "Wait until containers end, and print their exit codes"),
        "ps": ("ps", "PS", "List containers"),
        "logs": ("logs", "LOGS", "Print what a container wrote"),
        "exec": ("running", "EXEC", "Run one more command in a running container"),
        "attach": ("running", "ATTACH", "Connect this terminal with a running container"),
        "top": ("ps", "TOP", "List the processes of a container"),
        "stats": ("ps", "STATS", "Show what running containers use"),
        "port": ("ps", "PORT", "Show where a container's ports are published"),
        "cp": ("copying", "CP", "Copy files between a container and here"),
        "commit": ("committing", "COMMIT", "Make an image of what a container changed"),
        "rename": ("lifecycle", "RENAME", "Give a container another name"),
        "update": ("lifecycle", "UPDATE", "Change limits of containers"),
        "pause": ("lifecycle", "PAUSE", "Let no process of a container run"),
        "unpause": ("lifecycle", "UNPAUSE", "Let a paused container go on"),
        "rm": ("lifecycle", "RM", "Remove containers"),
        "container prune": ("lifecycle", "PRUNE", "Remove all containers that do not run"),
    },
    "Networks and volumes": {
        "network create": ("networks", "NETWORK_CREATE", "Make a network for containers"),
        "network ls": ("networks", "NETWORK_LS", "List networks"),
        "network inspect": ("networks", "NETWORK_INSPECT", "Show everything about networks as JSON"),
        "network rm": ("networks", "NETWORK_RM", "Remove networks"),
        "network prune": ("networks", "NETWORK_PRUNE", "Remove networks that nothing uses"),
        "volume create": ("volumes", "VOLUME_CREATE", "Make a volume"),
        "volume ls": ("volumes", "VOLUME_LS", "List volumes"),
        "volume inspect": ("volumes", "VOLUME_INSPECT", "Show everything about volumes as JSON"),
        "volume rm": ("volumes", "VOLUME_RM", "Remove volumes"),
        "volume prune": ("volumes", "VOLUME_PRUNE", "Remove volumes that nothing uses"),
    },
    "Images here": {
        "images": ("images", "IMAGES", "List images"),
        "inspect": ("images", "INSPECT", "Show everything about images and containers as JSON"),
        "history": ("images", "HISTORY", "Show the instructions that made an image"),
        "tag": ("images", "TAG", "Give an image one more name"),
        "rmi": ("images", "RMI", "Remove names, and images that have none left"),
        "image prune": ("storage", "IMAGE_PRUNE", "Remove images that nothing needs"),
    },
    "Layers and files": {
        "layers": ("explain", "LAYERS", "Show an image's layers, base first, and what each changes"),
        "ls": ("files", "LS", "List files of an image, or of one of its layers"),
        "cat": ("files", "CAT", "Print a file of an image"),
        "blame": ("explain", "BLAME", "Say which layer and instruction put a file there"),
        "obscured": ("explain", "OBSCURED", "List files that are stored but that no container sees"),
    },
    "What is in the bytes": {
        "verify-erased": ("erasure", "VERIFY_ERASED", "Prove that a secret or a path is gone from an image"),
        "secrets": ("erasure", "SECRETS", "Find likely secrets in an image, also in hidden files"),
        "waste": ("waste", "WASTE", "List bytes that are pulled for nothing, and how to save them"),
        "diff": ("compare", "DIFF", "Show what a container changed, or what two images differ in"),
        "du": ("du", "DU", "Show what the bytes of an image are, by directory, layer or extension"),
        "report": ("report", "REPORT", "Write everything about an image as one HTML page"),
    },
    "Squashing": {
        "squash": ("squash", "SQUASH", "Merge layers into one, and say what it costs"),
    },
    "Filesystems": {
        "mount": ("mounting", "MOUNT", "Mount an image's layers as one filesystem, read-only"),
        "umount": ("mounting", "UMOUNT", "Unmount what mount has mounted"),
        "unshare": ("mounting", "UNSHARE", "Enter a namespace where an ordinary user can mount"),
    },
    "Registries": {
        "login": ("registry", "LOGIN", "Log in to a registry"),
        "logout": ("registry", "LOGOUT", "Forget a registry's credentials"),
        "manifest inspect": ("registry", "MANIFEST", "Show a manifest in a registry without pulling"),
        "tags": ("registry", "TAGS", "List the tags of a repository in a registry"),
        "serve": ("registry", "SERVE", "Be a registry: serve the images that are here"),
    },
    "Housekeeping": {
        "blobs ls": ("blobs", "LS", "List compressed layers that were dropped here"),
        "blobs drop": ("blobs", "DROP", "Drop compressed layers that a registry has"),
        "blobs fetch": ("blobs", "FETCH", "Fetch what was dropped of images"),
        "system df": ("df", "DF", "Show what takes space, and what could be freed"),
        "prune": ("storage", "PRUNE", "Remove what nothing needs"),
        "check": ("storage", "CHECK", "Verify everything that is stored"),
        "storage ls": ("drivers", "STORAGE_LS", "List storage drivers, and what each has here"),
        "storage migrate": ("drivers", "STORAGE_MIGRATE", "Move everything here to another storage driver"),
        "storage bench": ("drivers", "STORAGE_BENCH", "Compare the storage drivers that work here"),
        "info": ("about", "INFO", "Show the settings in force and where each comes from"),
        "version": ("about", "VERSION", "Show the version"),
    },
    "Learning": {
        "demo": ("demo", "DEMO", "See how images and layers work, in a few seconds"),
        "help": ("help", "HELP", "Explain lamina, or one of its verbs"),
        "completion": ("completion", "COMPLETION", "Print a completion script for a shell"),
    },
}
HIDDEN = {"__complete": ("completion", "COMPLETE", "")}

# docker's other spellings of the same verbs.
ALIASES = {
    "image build": "build", "builder build": "build",
    "image pull": "pull", "image push": "push", "image save": "save", "image load": "load",
    "image import": "import", "image ls": "images", "image list": "images", "image inspect": "inspect",
    "image history": "history", "image tag": "tag", "image rm": "rmi", "image remove": "rmi",
    "system prune": "prune", "system info": "info", "unmount": "umount",
    "container run": "run", "container create": "create", "container start": "start",
    "container stop": "stop", "container restart": "restart", "container kill": "kill",
    "container wait": "wait", "container ls": "ps",
    "container list": "ps", "container ps": "ps", "container logs": "logs", "container exec": "exec",
    "container attach": "attach", "container top": "top", "container stats": "stats",
    "container port": "port", "container cp": "cp", "container commit": "commit",
    "container rename": "rename",
    "container update": "update", "container pause": "pause", "container unpause": "unpause",
    "container rm": "rm", "container remove": "rm", "container inspect": "inspect", "container diff": "diff",
    "container export": "export", "network list": "network ls", "network remove": "network rm",
    "volume list": "volume ls", "volume remove": "volume rm",
}
GROUPS = {
    "blobs": "Verbs for layers as they travel",
    "builder": "Verbs for builds and their cache",
    "container": "Verbs for containers",
    "context": "Verbs for what builds read",
    "image": "Verbs for images",
    "manifest": "Verbs for manifests in registries",
    "network": "Verbs for networks of containers",
    "storage": "Verbs for storage drivers",
    "system": "Verbs for the state directory",
    "volume": "Verbs for volumes",
}


def names() -> list[str]:
    """Every verb by its proper name, in the order of the overview."""
    return [name for verbs in HEADINGS.values() for name in verbs]


def entry(name: str) -> tuple[str, str, str]:
    for verbs in HEADINGS.values():
        if name in verbs:
            return verbs[name]
    return HIDDEN[name]


def load(name: str) -> Verb:
    """Imports the verb's module. ``name`` is a proper one."""
    import importlib

    module, attribute, _ = entry(name)
    verb = getattr(importlib.import_module(f"lamina.cli.{module}"), attribute)
    assert isinstance(verb, Verb)
    return verb


def find(words: Sequence[str]) -> tuple[str, int]:
    """The proper name of the verb that a command line begins with, and how many words that took.

    ``("", 0)`` when there is none.
    """
    known = {*names(), *HIDDEN}
    for count in (2, 1):
        spelled = " ".join(words[:count])
        proper = ALIASES.get(spelled, spelled)
        if len(words) >= count and proper in known:
            return proper, count
    return "", 0


def spellings(name: str) -> list[str]:
    """The other names that docker's users may type for a verb."""
    return [alias for alias, proper in ALIASES.items() if proper == name]


def members(group: str) -> dict[str, str]:
    """What may follow the first word of a two-word verb: second word -> proper name."""
    both = {**{name: name for name in names()}, **ALIASES}
    return {
        spelled.split(" ", 1)[1]: proper
        for spelled, proper in both.items()
        if spelled.startswith(group + " ")
    }
