"""What the benchmark images are made of: packages of Debian and PyPI, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """`count` files of `size` incompressible bytes each below `directory`; `seed` decides the bytes."""

    directory: str
    count: int
    size: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecipe:
    """One layer: packages unpacked over each other, then generated files, then whiteouts."""

    name: str
    debs: str = ""  # names, separated by spaces; the candidate version of the configured suite
    wheels: str = ""  # pinned as pip spells it, name==version, separated by spaces
    generated: tuple[Generated, ...] = ()
    removed: tuple[str, ...] = ()  # paths of lower layers, written as whiteouts


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe:
    """A stack of layers, base first, and how its blobs are compressed."""

    name: str
    layers: tuple[LayerRecipe, ...]
    compression: str = "gzip"  # or "zstd"


# The closure of apt, dpkg and coreutils, which is what the smallest Debian images hold, and Python.
_BASE = LayerRecipe(
    name="base",
    debs=(
        "adduser apt base-files base-passwd bash bsdutils ca-certificates coreutils dash debconf "
        "debian-archive-keyring debianutils diffutils dpkg e2fsprogs findutils gcc-12-base gpgv grep gzip "
        "hostname init-system-helpers libacl1 libapt-pkg6.0 libattr1 libaudit-common libaudit1 libblkid1 "
        "libbz2-1.0 libc-bin libc6 libcap-ng0 libcap2 libcom-err2 libcrypt1 libdb5.3 libdebconfclient0 "
        "libext2fs2 libffi8 libgcc-s1 libgcrypt20 libgmp10 libgnutls30 libgpg-error0 libhogweed6 libidn2-0 "
        "liblz4-1 liblzma5 libmd0 libmount1 libnettle8 libp11-kit0 libpam-modules libpam-modules-bin "
        "libpam-runtime libpam0g libpcre2-8-0 libpython3.11-minimal libpython3.11-stdlib libseccomp2 "
        "libselinux1 libsemanage-common libsemanage2 libsepol2 libsmartcols1 libss2 libssl3 libstdc++6 "
        "libsystemd0 libtasn1-6 libtinfo6 libudev1 libunistring2 libuuid1 libxxhash0 libzstd1 login logsave "
        "mawk mount ncurses-base ncurses-bin openssl passwd perl-base python3.11-minimal sed sysvinit-utils "
        "tar tzdata util-linux zlib1g"
    ),
)
_TOOLCHAIN = LayerRecipe(
    name="toolchain",
    debs=(
        "binutils-x86-64-linux-gnu cpp-12 g++-12 gcc-12 git libbinutils libc6-dev libgcc-12-dev libisl23 "
        "libmpc3 libmpfr6 libstdc++-12-dev linux-libc-dev make perl-modules-5.36"
    ),
)
_GO = LayerRecipe(name="go", debs="golang-1.19-src")
_PLATFORM = LayerRecipe(name="platform", debs="golang-1.19-src openjdk-17-jdk-headless")
_FONTS = LayerRecipe(name="fonts", debs="fonts-noto-cjk fonts-noto-cjk-extra")
_LEARNING = LayerRecipe(name="learning", wheels="tensorflow-cpu==2.15.0")
_SCIENCE = LayerRecipe(
    name="science", wheels="matplotlib==3.8.2 numpy==1.26.4 pandas==2.1.4 scikit-learn==1.3.2"
)
_SERVICES = "botocore==1.34.14 faker==22.0.0 jupyterlab==4.0.10 kubernetes==28.1.0 plotly==5.18.0"
_WEB = LayerRecipe(name="web", wheels=_SERVICES)


def _application(seed: int) -> LayerRecipe:
    """The layer that differs between an image and its sibling: a small program and its configuration."""
    return LayerRecipe(
        name=f"application-{seed}",
        generated=(Generated(directory="srv/application", count=48, size=32_768, seed=seed),),
        removed=("usr/share/doc/git", "usr/share/doc/make/NEWS.gz"),
    )


_BELOW = (_BASE, _TOOLCHAIN, _PLATFORM, _FONTS, _LEARNING, _SCIENCE, _WEB)

BIG = ImageRecipe(name="big", layers=(*_BELOW, _application(1)))
SIBLING = ImageRecipe(name="big-sibling", layers=(*_BELOW, _application(2)))
BIG_ZSTD = ImageRecipe(name="zstd", layers=BIG.layers, compression="zstd")
ZSTD_SIBLING = ImageRecipe(name="zstd-sibling", layers=SIBLING.layers, compression="zstd")

_ICONS = LayerRecipe(name="icons", debs="breeze-icon-theme")
_RUST = LayerRecipe(name="rust", debs="rust-src")
_BOOST = LayerRecipe(name="boost", debs="libboost1.74-dev")
_ANSIBLE = LayerRecipe(name="ansible", wheels="ansible==9.1.0")


def _script(seed: int) -> LayerRecipe:
    return LayerRecipe(
        name=f"script-{seed}", generated=(Generated(directory="srv/script", count=8, size=4_096, seed=seed),)
    )


_SITES = LayerRecipe(name="sites", wheels=f"{_SERVICES} babel==2.14.0 django==5.0.1 sympy==1.12")
_MANY = (_RUST, _GO, _BOOST, _ICONS, _ANSIBLE, _SITES)
SMALL = ImageRecipe(name="small", layers=(*_MANY, _script(1)))
SMALL_SIBLING = ImageRecipe(name="small-sibling", layers=(*_MANY, _script(2)))


def _tiny(number: int, *removed: str) -> LayerRecipe:
    return LayerRecipe(
        name=f"tiny-{number}",
        generated=(Generated(directory=f"tiny/{number}", count=3, size=2_000, seed=number),),
        removed=removed,
    )


# No download: what the tests and trial runs of the harness use.
_TINY_BELOW = (_tiny(1), _tiny(2, "tiny/1/0"))
TINY = ImageRecipe(name="tiny", layers=(*_TINY_BELOW, _tiny(3, "tiny/1/1")))
TINY_SIBLING = ImageRecipe(name="tiny-sibling", layers=(*_TINY_BELOW, _tiny(4, "tiny/2")))

PAIRS = {
    "big": (BIG, SIBLING),
    "small": (SMALL, SMALL_SIBLING),
    "zstd": (BIG_ZSTD, ZSTD_SIBLING),
    "tiny": (TINY, TINY_SIBLING),
}
