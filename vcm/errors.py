"""The one exception a user is meant to read: a sentence with the value, the rule and the remedy."""


class VCMError(ValueError):
    """Input that cannot be used. The command line prints it as one sentence and exits with 2."""
