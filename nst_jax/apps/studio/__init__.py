"""The studio: a local web page that stylizes a photo while you watch.

It consumes `nst_jax.run`, as the command line does. `choices` and `reproduce` are pure functions of
settings, `stream` follows one job, `device` runs the jobs one after another, `sessions` keeps each
tab's images, `render` draws what the page shows, and `page` and `server` make the page with gradio.
Only these two import gradio.
"""
