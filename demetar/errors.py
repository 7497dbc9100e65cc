"""The one error that is a user's to mend."""


class UserError(Exception):
    """Bad input. The message is one line: what was expected, found, and what to do.

    Binaries print it without a traceback and exit with a code other than 0.
    """
