"""What people use: the command line and plots.

Apps consume `nst_jax.pipeline`; nothing imports them.
"""
