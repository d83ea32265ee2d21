"""Errors of settings and of records. No other module of ours is below this one, so that every part can raise it."""


class ConfigError(ValueError):
    """A setting that is not allowed, or settings that do not fit each other; the message names them and what is."""


class RecordsError(ValueError):
    """Prepared records are missing, incomplete, damaged or of another schema; says where and the remedy."""
