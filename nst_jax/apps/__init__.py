"""What people use: the command line, the studio and plots.

Apps consume `nst_jax.pipeline`; nothing imports them.
"""
