"""Typed errors. The command line prints one as a single line and exits with code 2; a library caller
catches the class. Each says what is wrong, where (a file, a row, a key) and what to do about it."""

from __future__ import annotations

from pathlib import Path


class NextvecError(Exception):
    """Base of everything nextvec raises on bad input.

    Args:
        message: what is wrong, in one sentence without a final full stop.
        where: the file, row or key at fault.
        remedy: what the user can do, in the imperative.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.message = message
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(message, where, remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if self.remedy:
            text = f"{text}; {self.remedy}"
        return " ".join(text.split())


class BusyError(NextvecError):
    """A folder that another process is writing. The same command may be given again when that has ended."""


class DiskError(NextvecError, OSError):
    """What the file system refuses: no space left, no rights, an input/output error, a file too large."""

    def __init__(
        self,
        message: str,
        *,
        where: str | Path | None = None,
        remedy: str | None = None,
        number: int | None = None,
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.errno, self.strerror, self.filename = number, message, self.where

    @classmethod
    def of(cls, error: OSError, path: Path) -> DiskError:
        """The refusal `error` as one that names the file it is about."""
        remedy = "check the path, its rights and the space left, and give the command again"
        return cls(error.strerror or str(error), where=path, remedy=remedy, number=error.errno)


class ConfigError(NextvecError):
    """An unknown key, a wrong type or a value that cannot be meant."""


class DocumentError(NextvecError):
    """A source that cannot be read as documents."""


class EncoderError(NextvecError):
    """An encoder that cannot be loaded or answers nonsense."""


class EncoderMismatchError(EncoderError):
    """Vectors of two different encoders would be mixed."""


class StoreError(NextvecError):
    """A store on disk that is missing, damaged or of another format."""


class VectorError(NextvecError):
    """Vectors with NaN, infinity, a wrong dimension or a wrong row count."""


class SplitError(NextvecError):
    """A split that is empty, unknown or not disjoint."""


class WindowError(NextvecError):
    """No window can be cut: contexts or horizons longer than the documents."""


class ModelError(NextvecError):
    """An unknown architecture, preset or head, or an input of the wrong shape."""


class RunError(NextvecError):
    """A run folder that is missing, damaged, of another code version or of another configuration."""


class TrainingError(NextvecError):
    """Training that cannot go on: a loss that is not finite, all loss weights zero."""


class DecoderError(NextvecError):
    """A decoder that is missing, damaged, or not made for what it is given."""


class RetrievalError(NextvecError):
    """A search that cannot be answered: more rows than there are, a strategy that lacks what it needs."""


class LeakError(NextvecError):
    """Evaluation material that also stands in training."""


class EvaluationError(NextvecError):
    """An evaluation that would mean nothing: no windows, k larger than the pool."""


class ServerError(NextvecError):
    """A server that cannot be reached, refuses, or answers nonsense.

    Attributes:
        status: of its answer; None where there was none.
        kind: what the server calls the error, such as "invalid_request_error".
    """

    status: int | None = None
    kind: str | None = None


class MissingDependencyError(NextvecError):
    """An optional package that the chosen option needs is not installed."""


def require_package(what: str, package: str, extra: str) -> None:
    """Raise MissingDependencyError where an optional package is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        message = f"{what} needs {package}, which is not installed"
        raise MissingDependencyError(message, remedy=f"pip install nextvec[{extra}]")


class NothingToDraw(NextvecError):  # noqa: N818 - the report prints its reason; nothing went wrong
    """The inputs hold nothing that a figure could show."""


class NextvecWarning(UserWarning):
    """Something that a user should look at, but that does not stop the work."""
