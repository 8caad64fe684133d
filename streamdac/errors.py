"""Every error streamdac raises on purpose, and the exit code each one ends a command with.

* StreamdacError (1)
    * UsageError (2): a caller's mistake: shapes, dtypes, ranges, options
        * ChunkSizeError: a chunk does not fit the model's hop
    * BadDataError (65): data from a file, a pipe or a peer is broken
        * ProtocolError: the stream protocol was broken
            * LocalProtocolError: by us, a bug
            * RemoteProtocolError: by the other side
        * ModelMismatchError: the codes belong to another model
    * NoInputError (66): a file is missing
    * UnavailableError (69): a device, model, network or optional dependency is not there
        * FrontendUnavailable: a frontend is unknown or cannot be imported
    * OutputError (74): something could not be written
    * DeniedError (77): not allowed
"""


class StreamdacError(Exception):
    """Base class of every error streamdac raises on purpose."""

    exit_code = 1


class UsageError(StreamdacError, ValueError):
    """An argument's shape, dtype, range or combination is wrong."""

    exit_code = 2


class ChunkSizeError(UsageError):
    """A chunk's length does not fit the model's hop."""


class BadDataError(StreamdacError):
    """Data from a file, a pipe or a peer is broken."""

    exit_code = 65


class ProtocolError(BadDataError):
    """The stream protocol was broken."""


class LocalProtocolError(ProtocolError):
    """We tried to send something illegal: a bug on our side."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something illegal: close the connection."""


class ModelMismatchError(BadDataError):
    """The codes were made by another model."""


class NoInputError(StreamdacError):
    """An input file or folder is missing."""

    exit_code = 66


class UnavailableError(StreamdacError):
    """A device, a model, the network or an optional dependency is not there."""

    exit_code = 69


class FrontendUnavailable(UnavailableError):
    """A frontend is unknown, or an optional dependency of it is missing."""


class OutputError(StreamdacError):
    """Something could not be written."""

    exit_code = 74


class DeniedError(StreamdacError):
    """Access was refused."""

    exit_code = 77
