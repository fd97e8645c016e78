"""What a user is meant to read: a sentence with the value, the rule and the remedy."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class VCMError(ValueError):
    """Input that cannot be used. The command line prints it as one sentence and exits with 2.

    Attributes:
        argument: Name of the Python argument whose value is wrong or would be the remedy, empty where
            there is none. The command line adds the option of that name to the sentence.
    """

    def __init__(self, sentence: str, argument: str = "") -> None:
        super().__init__(sentence)
        self.argument = argument


class VCMWarning(UserWarning):
    """Input that can be used, but that a user should look at. The command line prints it as one sentence."""


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The first of several names, for a sentence."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@contextmanager
def noted() -> Iterator[list[str]]:
    """Keep the sentences of the VCMWarnings that are raised inside, in place of printing them.

    Yields:
        A list that holds each sentence once when the block ends, also where it ends with an error.
    """
    sentences: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", VCMWarning)
            yield sentences
    finally:
        for found in caught:
            if not issubclass(found.category, VCMWarning):
                warnings.warn_explicit(found.message, found.category, found.filename, found.lineno)
            elif str(found.message) not in sentences:
                sentences.append(str(found.message))
