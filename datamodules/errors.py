"""The one exception for input a person can mend; the front door prints it without a traceback."""


class InputError(ValueError):
    """Bad input. The message names the argument, the rule, the value received and what to do next."""
