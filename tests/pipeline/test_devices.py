"""A job over several devices makes the images of one device."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from nst_jax import InputError, run, stylize_many
from nst_jax.partitioning import sharding
from nst_jax.pipeline.folders import slice_for_worker
from nst_jax.pipeline.planning import choose_batch_size
from nst_jax.settings import override

pytestmark = pytest.mark.extended


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_ROWS", 8)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_rows_of_one_image_over_four_devices(make, alone, optimizer):
    expected, num_devices = alone[optimizer][0], []

    def on_progress(progress):
        num_devices.append(len(progress.state.iterate.sharding.device_set))

    result = make(optimizer=optimizer, devices=4, on_progress=on_progress)
    assert set(num_devices) == {4}
    np.testing.assert_allclose(result.history["total"], expected.history["total"], rtol=1e-3)
    assert np.abs(result.image - expected.image).mean() < 2e-3
    assert result.metadata["devices"] == 4


def test_two_images_over_four_devices_of_which_two_share_the_rows_of_each(
    content, styles, small, alone
):
    settings = override(None, small | {"devices": 4})
    results = list(stylize_many(content, styles[:2], settings))
    for result, expected in zip(results, alone["adam"][:2], strict=True):
        assert np.abs(result.image - expected.image).mean() < 1e-3


def test_a_mesh_divides_every_level_as_it_is(job_of, styles, alone):
    devices = np.array(jax.devices()[2:6], object).reshape(2, 2)
    mesh = jax.sharding.Mesh(devices.T, ("rows", "images"))
    job = job_of(styles[:2], devices=mesh)
    assert (job.engine.devices, job.metadata["devices"]) == (tuple(devices.T.flat), 4)
    assert [job.engine.mesh(height, size) for height, size in ((26, 1), (36, 2))] == [mesh, mesh]
    assert choose_batch_size(job) == 2
    for progress in run(job):
        assert progress.state.iterate.sharding.mesh == mesh
        assert progress.state.iterate.sharding.spec[:2] == ("images", "rows")
    for image, expected in zip(progress.image, alone["adam"], strict=False):
        assert np.abs(image - expected.image).mean() < 1e-3


def test_a_mesh_without_the_axes_is_refused(job_of):
    with pytest.raises(InputError, match="the mesh has the axes rows; give images and rows, as"):
        job_of(devices=jax.make_mesh((2,), ("rows",)))
    with pytest.raises(InputError, match="the mesh has axes of another type than Auto"):
        job_of(devices=jax.make_mesh((1, 2), ("images", "rows"), (AxisType.Explicit,) * 2))


@pytest.mark.extended
def test_a_job_resumes_on_another_number_of_devices(job_of, leave_at, make, checkpoint, alone):
    leave_at(job_of(devices=2), 5)
    result = make(checkpoint=checkpoint, resume=True)
    assert np.abs(result.image - alone["adam"][0].image).mean() < 1e-3
    leave_at(job_of(), 5)
    *_, last = run(job_of(devices=4), checkpoint=checkpoint, resume=True)
    assert np.abs(last.image - alone["adam"][0].image).mean() < 1e-3


def test_more_devices_than_there_are_is_an_error(job_of):
    with pytest.raises(InputError, match=r"devices is 9 and JAX finds 8; give a smaller number"):
        job_of(devices=9)
    assert len(job_of(devices="all").engine.devices) == 8


def test_all_devices_of_several_processes_take_part(job_of, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert len(job_of().engine.devices) == len(job_of(devices=8).engine.devices) == 8
    with pytest.raises(InputError, match="devices is 2 and the processes have 8 together"):
        job_of(devices=2)


def test_the_shares_of_all_processes_are_all_images():
    for count in (1, 2, 3, 7, 12):
        shares = [slice_for_worker(range(10), i, count) for i in range(count)]
        assert [x for share in shares for x in share] == list(range(10))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
