"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """A file, a key or a value that a user gave cannot be used.

    Its text is one line that names the file or key, what was found, what was expected and what to do.
    The command prints that line and exits with 2; every other exception is a failure of the run (1).
    """


class FieldError(InputError):
    """A value of a dataclass that `data.config.build` makes: it puts the key of the dataclass in front of the field's name."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")


class UnreadableError(InputError):
    """One sample cannot be read: its text names shard, key and reason. The loader passes over a set number of them."""


class FailedError(RuntimeError):
    """Work that was done as asked, and failed; the text says all that there is to say. The command exits with 1."""


class NoSuchSplitError(InputError):
    """A dataset is not prepared, or has no split of that name."""
