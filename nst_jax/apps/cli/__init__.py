"""The command line ``nst-jax``.

`nst_jax.apps.cli.main` has the commands, `options` their options, `run` and `batch` what they do.
"""
