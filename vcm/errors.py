"""What a user is meant to read: a sentence with the value, the rule and the remedy."""


class VCMError(ValueError):
    """Input that cannot be used. The command line prints it as one sentence and exits with 2."""


class VCMWarning(UserWarning):
    """Input that can be used, but that a user should look at. The command line prints it as one sentence."""
