"""The persistent compilation cache."""


def enable_compilation_cache() -> None:
    """Keeps compiled programs that took a tenth of a second or more in the user's cache, for the next process."""
    import jax  # here, since every command imports this file, and its help needs no jax

    from train.data.published import cache_folder

    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
