"""Free audio in Debian packages: what each one holds, what to leave out of it, and who is held out of training.

Minutes, bandwidths and remarks were measured on the versions of Debian 12 (bookworm). No audio is copied into this
project: `corpus.py` fetches the packages by name.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("speech", "music", "effects")
MIN_RATE = 11_025  # Hz; what was sampled slower teaches nothing but telephone sound


@dataclass(frozen=True)
class Source:
    """One kind of audio in one Debian package."""

    package: str
    kind: str
    licence: str
    globs: tuple[str, ...]  # below the unpacked package, or inside `archive`
    group: str = ""  # regular expression: what it captures in a file's path is its speaker or language
    rest: str = "all"  # the group of files in which `group` captures nothing
    skip: str = ""  # regular expression: files whose path matches are left out
    archive: str = ""  # a zip in the package that holds the audio (game data: .pk3)
    seconds_per_file: float | None = None  # at most so much, from the middle: many tracks rather than much of each
    bandwidth: Mapping[str, int] = field(default_factory=dict)  # group ("*": all) -> where its spectrum ends, Hz
    default: bool = True  # fetched unless named ones are asked for

    @property
    def name(self) -> str:
        """A name of its own: one package may hold speech and effects."""
        return f"{self.kind}-{self.package}"

    def band(self, group: str) -> int | None:
        """Where the spectrum of `group` ends in Hz, if that is known."""
        return self.bandwidth.get(group, self.bandwidth.get("*"))

    def recipe(self) -> str:
        """Changes whenever this entry, or who is held out, does."""
        held = sorted(item for item in [*VALID, *TEST] if item.startswith(self.package + "/"))
        return hashlib.sha256(repr((self, held)).encode()).hexdigest()[:16]


def split_of(package: str, group: str) -> str:
    """`train`, `valid` or `test`: whole speakers (groups) or whole packages go to one split."""
    names = {f"{package}/{group}", f"{package}/*"}
    return "test" if names & TEST else "valid" if names & VALID else "train"


# Whole languages are held out wherever one contributor may have spoken for several packages: Italian, Danish, Polish
# appear in training nowhere. (Allison speaks both English and Spanish for Asterisk, so she cannot be held out in one.)
TEST = frozenset(
    {
        "asterisk-core-sounds-it-g722/it_IT_m_Carlo",
        "colobot-common-sounds/*",  # music
        "hedgewars-data/Default_pl",
        "hedgewars-data/Russian_pl",
        "klettres-data/ar",
        "klettres-data/da",
        "klettres-data/en_GB",
        "klettres-data/hu",
        "klettres-data/it",
        "klettres-data/nds",
        "klettres-data/pt_BR",
        "ktuberling-data/da",
        "ktuberling-data/sl",
        "tuxpaint-stamps-default/da",
    }
)
VALID = frozenset(
    {
        "klettres-data/he",
        "klettres-data/nb",
        "ktuberling-data/gl",
        "ktuberling-data/wa",
        "ktuberling-data/ga",
    }
)

_ASTERISK = {
    "en": ("en_US_f_Allison", "CC-BY-SA-3.0"),
    "es": ("es_MX_f_Allison", "CC-BY-SA-3.0"),
    "fr": ("fr_CA_f_June", "CC-BY-SA-3.0"),
    "it": ("it_IT_m_Carlo", "CC-BY-3.0"),
    "ru": ("ru_RU_f_IvrvoiceRU", "CC-BY-3.0"),
}
_LETTRES, _POTATO = "usr/share/klettres/", "usr/share/ktuberling/sounds/"
_GAMES = "usr/share/games/"
_VOICES = _GAMES + "hedgewars/Data/Sounds/voices/"
_STAMPS = "usr/share/tuxpaint/stamps/"
_FISH = r"/[^/-]+-([mv])-[^/]*$"  # the two main characters are one actor each; everybody else is in "other"

SPEECH = (
    Source(
        "tuxpaint-stamps-default",
        "speech",
        "GPL-2 (or later)",
        (_STAMPS + "**/*_desc*.ogg",),
        group=r"_desc_([a-z]+)\.",
        rest="en",
        bandwidth={"ca": 7500, "el": 7500},
    ),
    Source(
        "fillets-ng-data-cs",
        "speech",
        "GPL-2",
        (_GAMES + "fillets-ng/sound/**/cs/*.ogg",),
        group=_FISH,
        rest="other",
        bandwidth={"*": 11000},
    ),
    Source(
        "fillets-ng-data-nl",
        "speech",
        "GPL-2",
        (_GAMES + "fillets-ng/sound/**/nl/*.ogg",),
        group=_FISH,
        rest="other",
        bandwidth={"*": 7500},
    ),
    Source(
        "klettres-data",
        "speech",
        "GPL-2+",
        (_LETTRES + "*/alpha/*.ogg", _LETTRES + "*/syllab/*.ogg"),
        group=r"klettres/([^/]+)/",
        skip=r"klettres/tn/",  # tn decodes to seven times full scale
        bandwidth={"es": 7000, "nl": 9500, "da": 9500},
    ),
    Source(
        "ktuberling-data",
        "speech",
        "GPL-2+",
        tuple(_POTATO + f"*/*.{e}" for e in ("ogg", "wav", "opus")),
        group=r"sounds/([^/]+)/",
        skip=r"sounds/sr@",  # the same recordings as sr
        bandwidth={"ca": 11000, "nn": 12000, "sr": 11000},
    ),
    Source(
        "hedgewars-data", "speech", "GFDL-1.3", (_VOICES + "*/*.ogg",), group=r"voices/([^/]+)/", skip=r"voices/Robot/"
    ),
    Source(
        "gcin-voice",
        "speech",
        "3: GPL-3 or LGPL-3; 5: CC-BY-3.0",
        ("usr/share/gcin-voice/ogg/*/3.ogg", "usr/share/gcin-voice/ogg/*/5.ogg"),
        group=r"/([35])\.ogg$",
    ),
    *(
        Source(
            f"asterisk-core-sounds-{language}-g722",
            "speech",
            licence,
            (f"usr/share/asterisk/sounds/{voice}/**/*.g722",),
            group=r"sounds/([^/]+)/",
            skip=r"/silence/",
            bandwidth={"*": 7000},
        )
        for language, (voice, licence) in _ASTERISK.items()
    ),
)

MUSIC = (
    Source(
        "warzone2100-music",
        "music",
        "CC-BY-SA-3.0 or GPL-2+ (original soundtrack, track3_enhanced: GPL-2+)",
        (_GAMES + "warzone2100/music/**/*.opus",),
        seconds_per_file=80,
    ),
    Source("hedgewars-data", "music", "GPL-2", (_GAMES + "hedgewars/Data/Music/*.ogg",), seconds_per_file=45),
    Source("colobot-common-sounds", "music", "GPL-3+", (_GAMES + "colobot/music/*.ogg",), seconds_per_file=8),
    Source(
        "ufoai-music",
        "music",
        "per track: GPL-2, GPL-2+, CC-BY-3.0, CC-BY-SA-3.0, public domain",
        ("music/*.ogg",),
        archive=_GAMES + "ufoai/base/0music.pk3",
        seconds_per_file=60,
        default=False,
    ),
    Source(
        "wesnoth-1.16-music",
        "music",
        "GPL-2+",
        (_GAMES + "wesnoth/1.16/data/core/music/*.ogg",),
        seconds_per_file=60,
        default=False,
    ),
    Source(
        "nexuiz-music",
        "music",
        "GPL-2+",
        ("sound/cdtracks/*.ogg",),
        archive=_GAMES + "nexuiz/data/music.pk3",
        seconds_per_file=60,
        default=False,
    ),
    Source(
        "flare-game",
        "music",
        "CC-BY-SA-3.0+",
        (_GAMES + "flare/mods/*/music/*.ogg",),
        seconds_per_file=60,
        default=False,
    ),
)

EFFECTS = (
    Source(
        "ufoai-sound",
        "effects",
        "per file: GPL-2, GPL-2+, CC-BY-3.0, CC-BY-SA-3.0, public domain",
        ("sound/**/*.ogg",),
        archive=_GAMES + "ufoai/base/0snd.pk3",
        group=r"sound/([^/]+)/",
        rest="other",
    ),
    Source("sonic-pi-samples", "effects", "CC0", ("usr/share/sonic-pi/samples/*.flac",)),
    Source("tuxpaint-stamps-default", "effects", "GPL-2 (or later)", (_STAMPS + "**/*.ogg",), skip=r"_desc"),
    Source("hedgewars-data", "effects", "GFDL-1.3 (Droplet*: CC-BY-SA-3.0)", (_GAMES + "hedgewars/Data/Sounds/*.ogg",)),
    Source(
        "hydrogen-drumkits",
        "effects",
        "per kit: GPL-2, GPL-2+, CC-BY-3.0, CC-BY-SA-3.0, CC0",
        tuple(f"usr/share/hydrogen/data/drumkits/*/*.{e}" for e in ("flac", "wav", "aiff")),
        group=r"drumkits/([^/]+)/",
        default=False,
    ),
)

SOURCES = (*SPEECH, *EFFECTS, *MUSIC)
