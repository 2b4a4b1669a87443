"""The one tree of errors. Every message names the file, atom or option at fault and what to do about it.

The command line maps the classes to exit codes; this module imports nothing, so that every part may use it.
"""


class AtomLoraError(Exception):
    """Base of all errors that atomlora raises on purpose."""

    exit_code = 1


class UsageError(AtomLoraError):
    """A wrong option, argument or setting."""

    exit_code = 2


class InputError(AtomLoraError):
    """Documents, questions or folders that cannot be used."""


class BaseModelError(AtomLoraError):
    """A base model or embedder that is unknown, absent, or not the one a store was made for."""


class QuestionWriterError(AtomLoraError):
    """A question writer behind an address that cannot be used."""


class StoreError(AtomLoraError):
    """A store that cannot be opened, locked or written."""


class ConflictError(AtomLoraError):
    """A question was routed to atoms that contradict each other, and the caller wants that to be an error."""


class RegressionError(AtomLoraError):
    """A composed model that falls short of the bare base by more than the limits allow."""


class CorruptStoreError(StoreError):
    """Bytes on disk that do not have the digest they must have."""

    exit_code = 3


class BackendError(AtomLoraError):
    """A kernel backend asked for by name that cannot run here."""
