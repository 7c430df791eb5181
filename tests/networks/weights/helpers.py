"""Makes weight files with Keras and PyTorch."""

import h5py
import numpy as np
from lazy import keras, torch

from nst_jax.networks.architectures import BLOCK_WIDTHS, CONVS_PER_BLOCK, conv_names, conv_shape


def keras_vgg(model):
    """Build Keras' own VGG with random weights that keep the size of the activations."""
    build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[model]
    net = build(weights=None, include_top=False, input_shape=(32, 32, 3), name=model)
    rng = np.random.default_rng(0)
    for layer in net.layers:
        if layer.weights:
            shape = layer.kernel.shape
            kernel = rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[:3]))
            layer.set_weights([kernel, 10 * rng.standard_normal(shape[-1:], np.float32)])
    return net


def keras_params(net):
    """Return the parameters of ``net`` in this project's form."""
    arrays = iter(net.get_weights())
    params = {name: {p: next(arrays) for p in ("kernel", "bias")} for name in conv_names(net.name)}
    params["conv1_1"]["kernel"] = params["conv1_1"]["kernel"][:, :, ::-1]
    return params


def keras_output(net, photo):
    """Return the last convolution's output for ``photo``, RGB in 0..255, which Keras prepares."""
    x = keras.applications.vgg19.preprocess_input(photo[None].copy())
    return np.asarray(keras.Model(net.input, net.layers[-2].output)(x))[0]


def write_keras(net, kind, folder):
    """Save ``net`` in one of Keras' formats; return the path."""
    path = folder / ("whole.h5" if kind == "whole-model" else "a.weights.h5")
    if kind == "whole-model":
        x = keras.layers.Flatten(name="flatten")(net.output)
        x = keras.layers.Dense(8, name="fc1")(x)  # small; the real classifier has 500 MB
        keras.Model(net.input, keras.layers.Dense(4, name="predictions")(x)).save(path)
    elif kind.startswith("keras3"):
        net.save_weights(path)
    with h5py.File(path, "a") as file:
        if kind == "legacy":
            from keras.src.legacy.saving import legacy_h5_format

            legacy_h5_format.save_weights_to_hdf5_group(file, net)
        elif kind == "legacy-old-names":
            for layer in net.layers:
                for part, value in zip("Wb", layer.get_weights(), strict=False):
                    file[f"{layer.name}/{layer.name}_{part}_1:0"] = value
        elif kind == "whole-model":  # the optimizer's state, with the names of Keras 2
            file["optimizer_weights/Adam/block1_conv1/kernel/m:0"] = np.zeros((3, 3, 3, 64))
        elif kind == "keras3-unnamed":  # the format of Keras 3.0 to 3.7
            for group in file["layers"].values():
                del group["vars"].attrs["name"]
    return path


def write_sparse_keras(path, model, value=0.01):
    """Write a legacy Keras file of a few kilobytes: arrays without data, only a fill value."""
    with h5py.File(path, "w") as file:
        for name in conv_names(model):
            layer, shape = f"block{name[4]}_conv{name[6]}", conv_shape(name)
            for part, size in ((f"{layer}_W_1:0", shape), (f"{layer}_b_1:0", shape[-1:])):
                fill = {"chunks": True, "fillvalue": np.float32(value)}
                file.create_dataset(f"{layer}/{part}", size, "f4", **fill)
    return path


def torch_vgg(model):
    """Build the layers of torchvision's VGG with random weights."""
    torch.manual_seed(0)
    layers, width = [], 3
    for count, out in zip(CONVS_PER_BLOCK[model], BLOCK_WIDTHS, strict=True):
        for _ in range(count):
            conv = torch.nn.Conv2d(width, out, 3, padding=1)
            torch.nn.init.kaiming_normal_(conv.weight)
            layers += [conv, torch.nn.ReLU()]
            width = out
        layers.append(torch.nn.MaxPool2d(2))
    return torch.nn.ModuleDict(
        {"features": torch.nn.Sequential(*layers), "classifier": torch.nn.Linear(8, 4)}
    )


def torch_output(net, photo, preprocessing):
    """Return the last convolution's output for ``photo``, RGB in 0..255."""
    if preprocessing == "torchvision":
        x = (photo / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:
        x = photo[..., ::-1] - [103.939, 116.779, 123.68]
    with torch.no_grad():
        output = net["features"][:-1](torch.from_numpy(np.float32(x)).permute(2, 0, 1)[None])
    return output[0].permute(1, 2, 0).numpy()


def gatys_names(state, model):
    """Rename ``features.N.…`` to ``conv1_1.…``."""
    names = [f"{name}.{part}" for name in conv_names(model) for part in ("weight", "bias")]
    return dict(zip(names, state.values(), strict=False))


def sparse_state(counts=CONVS_PER_BLOCK["vgg16"], gap=2, value=0.01):
    """Return a state dict of a few kilobytes: each tensor is one number with strides of zero."""
    state, index, width = {}, 0, 3
    for count, out in zip(counts, BLOCK_WIDTHS, strict=True):
        for _ in range(count):
            state[f"features.{index}.weight"] = torch.full((1,), value).expand(out, width, 3, 3)
            state[f"features.{index}.bias"] = torch.full((1,), value).expand(out)
            index, width = index + gap, out
        index += 1
    return state
