"""The official D4RL files: names, sizes, hashes, and how to recognize other files with the same names.

Sizes and hashes are those in the checksum lists of TensorFlow Datasets (`d4rl_mujoco_*`). Two releases of the -v2 files
have been served under the same addresses; the first had wrong ``infos/qpos`` and ``infos/qvel`` (D4RL issue 100), and
is recognized by its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trajmill.core.files import sha256_of
from trajmill.data.errors import warn_about

CURRENT, OLD = "D4RL's, current", "D4RL's, old"  # what `recognize` returns for official files
_ADDRESS = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2/"


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """One file of D4RL's -v2 locomotion data."""

    name: str  # such as ``hopper-medium-replay-v2``
    size: int  # bytes
    sha256: str  # 64 hexadecimal digits, or the first 16 where the others are not known
    old_size: int | None = None  # bytes of the release before the repair of qpos and qvel

    @property
    def file_name(self) -> str:
        """As the server and D4RL's cache have it: ``hopper_medium_replay-v2.hdf5``."""
        stem, version = self.name.rsplit("-", 1)
        return f"{stem.replace('-', '_')}-{version}.hdf5"

    @property
    def url(self) -> str:
        """Where it is served."""
        return _ADDRESS + self.file_name


# name, bytes, bytes of the old release (-: not known), SHA-256 or its first digits
_TABLE = """
halfcheetah-medium-v2         237727262 219650767 41324e8487a9556d8cfa4538827f8937f4d63dae3030825ebc9f3a726ed08ca0
halfcheetah-medium-replay-v2   59448533  60486703 48d494a4770c11f48260736dec090b78bdca8375647ed4d24bfa5b6610c7f683
halfcheetah-medium-expert-v2  474567252 438690517 015db75dae5bbe8e94029b71fa0bafc2073365df0c94744e71031189f3f79c06
hopper-medium-v2              152756557 141484200 5bdf1bc4a713c82941de44633df669b36c89850b652a25985166796d25cf71a0
hopper-medium-replay-v2        75854457  77251678 e121c5f7c9857a307baa9edc6a2c3b48e85fedb9ac316ecddd0f48ca7ef4e39b
hopper-medium-expert-v2       304537315 281841200 9d51ad87f8c905be3880d84c6140bcdb7fbf39a19e046a237f238ba34fec9e26
walker2d-medium-v2            232254996 216994829 cf00f43add04c17fdfc2958dd581dea0851b2e5bedbe6fda073758a8f841aeda
walker2d-medium-replay-v2      86323963  88471563 e75de96a4f77acf7d4e0d6fdf0d7ccb177c26c44bb4388e4fd99f543ccfa18db
walker2d-medium-expert-v2     462197079 431922429 6b8d7f868c45bbaedf460be797fb7271b46dee6ebe45fe7a64319f2005b59a04
ant-medium-v2                 376239825 335663176 461c03b9f70f40d66b47608a92965e4ef3642bd9cdb1320d10acc92754167137
ant-medium-replay-v2          136482252 138469125 844c4e5743ef51091f2106a3570b257fb149032c4743f8a5f02f40adc3b42a46
ant-medium-expert-v2          748335217 667959520 8cfb64e62d8944b5d9dada5f0cfc13a295fafe0c6ba58b778e32ebf16c95aef1
hopper-random-v2              152525345         - 63103ef7059db4c0
hopper-full-replay-v2         187998921         - 56baf95963c51c1e
hopper-expert-v2              152427435         - 01aa219a5f8eea5e
halfcheetah-random-v2         237338037         - 25407aef85b5d16c
halfcheetah-full-replay-v2    291381762         - 27fdf7ea86e5a2cb
halfcheetah-expert-v2         237464597         - d9fe53bb994eb1e2
walker2d-random-v2            216109364         - 4e863bb6090cf4a4
walker2d-full-replay-v2       285115514         - f2720f9d27b2acef
walker2d-expert-v2            230567195         - 2985dc3d436a8baa
ant-random-v2                 384466831         - 93cc10893eed2b8e
ant-full-replay-v2            449390167         - b95b0a7f34b1d5d1
ant-expert-v2                 373231677         - fa22531ca79ea051
"""


OFFICIAL_FILES = {
    name: OfficialFile(name, int(size), sha256, None if old_size == "-" else int(old_size))
    for name, size, old_size, sha256 in map(str.split, _TABLE.strip().splitlines())
}


def official_file(name: str) -> OfficialFile | None:
    """The official file of a name in any spelling (``hopper_medium_replay-v2``), or None."""
    return OFFICIAL_FILES.get(name.lower().removesuffix(".hdf5").replace("_", "-"))


def recognize(path: Path) -> str | None:
    """Which release of an official file is at `path`, whatever its name; None for another file, or no file."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    if any(size == file.old_size for file in OFFICIAL_FILES.values()):
        return OLD
    candidates = [file for file in OFFICIAL_FILES.values() if file.size == size]
    return CURRENT if any(sha256_of(path).startswith(file.sha256) for file in candidates) else None


def warn_about_release(path: Path, release: str | None) -> None:
    """Warn about the old release, and about a file that has an official name but is not the official one."""
    official = official_file(path.name)
    if release == OLD:
        oddity = "this is the old release of D4RL's file (by its size), whose 'infos/qpos' and 'infos/qvel' are wrong"
        warn_about(f"{oddity} (D4RL issue 100); they are left out, the rest is correct")
    elif official and release is None:
        oddity = f"has the name of D4RL's {official.name} but is another file ({path.stat().st_size:,} bytes"
        warn_about(f"{oddity}, the official one has {official.size:,}, SHA-256 {official.sha256}); rename it")
