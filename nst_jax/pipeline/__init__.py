"""One job: images and settings in, levels, memory and checkpoints between, images out.

`nst_jax.pipeline.runner.run` is the one loop, an iterator of `Progress`. The functions of
`nst_jax.pipeline.api` and `nst_jax.pipeline.folders` run it to its end.
"""

from nst_jax.pipeline.api import (
    interpolate_styles,
    reconstruct_content,
    stylize,
    stylize_many,
    synthesize_texture,
)
from nst_jax.pipeline.folders import (
    FolderItem,
    list_images,
    plan_items,
    slice_for_worker,
    stylize_folder,
)
from nst_jax.pipeline.job import Job
from nst_jax.pipeline.result import Result
from nst_jax.pipeline.runner import Progress, collect, run
from nst_jax.pipeline.stylizer import Stylizer

__all__ = [
    "FolderItem",
    "Job",
    "Progress",
    "Result",
    "Stylizer",
    "collect",
    "interpolate_styles",
    "list_images",
    "plan_items",
    "reconstruct_content",
    "run",
    "slice_for_worker",
    "stylize",
    "stylize_folder",
    "stylize_many",
    "synthesize_texture",
]
