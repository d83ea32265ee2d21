"""DISCOVR: self-supervised learning of echocardiography video, in JAX. `load_encoder` is all that users need."""

__all__ = ["load_encoder"]


def __getattr__(name: str):
    # On first use: importing the package must not start jax.
    if name == "load_encoder":
        from discovr_jax.inference import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
