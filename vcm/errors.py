"""What a user is meant to read: a sentence with the value, the rule and the remedy."""


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
