"""The studio: a local web page that stylizes a photo while you watch.

It consumes `nst_jax.run`, as the command line does. `choices` and `reproduce` are pure functions of
settings. `uploads` checks files, `stream` follows one job, `job_queue` runs the jobs in their
order, `sessions` keeps each tab's images, and `render` and `thumbnails` draw what the page shows.
`page`, `events`, `connect` and `server` make the page; only these import gradio.
"""
