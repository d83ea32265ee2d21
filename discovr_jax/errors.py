"""The error of settings. No other module of ours is below this one, so that every part can raise it."""


class ConfigError(ValueError):
    """A setting that is not allowed, or settings that do not fit each other; the message names them and what is."""
