"""What a store needs to be asked: the base it was compiled for, checked settings, and the policies of its composer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from atomlora.answers import OffTopic
from atomlora.errors import BaseModelError, UsageError
from atomlora.quantised import quantised_name, split_name

if TYPE_CHECKING:
    from atomlora.atom import Atom
    from atomlora.bases import Base
    from atomlora.composer import Policy
    from atomlora.conflicts.records import OnConflict
    from atomlora.interference.policy import PolicySettings
    from atomlora.store import Store

# The embedded base as it is loaded: the second look's coefficients (atomlora.router.second_look) were fitted on it
_LOOKS = "d88e9561ba2ddffe89f7b05dfd33bdb6125aa4a8912374d6cf18879ca783143e"


def base_for(store: Store, base: Base | str, device: str, dtype: str) -> Base:
    """The base, loaded where it is only named; BaseModelError, naming both, when it is not the store's."""
    from atomlora.bases import load_base

    wanted = store.manifest.base
    if isinstance(base, str):
        kind = split_name(wanted.name)[1]  # a folder that is named stands for the base as the store has it
        base = load_base(base if split_name(base)[1] else quantised_name(base, kind), device, dtype)
    if base.fingerprint != wanted.fingerprint:
        raise BaseModelError(
            f"{store.path} was compiled for base {wanted.name!r} ({wanted.fingerprint[:12]}…), not "
            f"for {base.name!r} ({base.fingerprint[:12]}…); open it with that base or compile it again"
        )
    return base


def checked_steady(steady: float) -> float:
    """The probability itself; UsageError when it is none."""
    if not 0 <= steady < 1:
        raise UsageError(f"--steady must be at least 0 and below 1, not {steady:g}")
    return steady


def checked_off_topic(off_topic: OffTopic) -> OffTopic:
    """The choice itself; UsageError when it is none."""
    if off_topic not in get_args(OffTopic):
        raise UsageError(f"--off-topic {off_topic}: unknown; use {' or '.join(get_args(OffTopic))}")
    return off_topic


def looks_again(store: Store, wanted: bool) -> bool:
    """Whether the router asks the store's base for evidence."""
    return wanted and store.manifest.base.fingerprint == _LOOKS


def policies_for(
    store: Store,
    atoms: Mapping[str, Atom],
    on_conflict: OnConflict | None,
    more: Sequence[Policy],
    interference: PolicySettings | str | None,
) -> tuple[Policy, ...]:
    """The composer's policies for a version with `atoms` by id: what to do with contradictions (default: as compiled),
    then `more`, and last what to do with atoms that disturb each other, where the store has records of it."""
    from atomlora.conflicts.policy import conflict_policy
    from atomlora.conflicts.seen import tellable
    from atomlora.interference.policy import store_policies

    compiled = store.manifest.settings.get("on_conflict", "warn")
    conflicts = conflict_policy(tellable(store.conflicts(), atoms), on_conflict or compiled)
    return (conflicts, *more, *store_policies(store, interference))
