"""Makes weight files as Keras and PyTorch write them, and runs the networks that they came from."""

import os
from collections import OrderedDict

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import keras
import numpy as np
import torch
from keras.src.legacy.saving import legacy_h5_format

from nst_jax.models.architectures import BLOCK_WIDTHS, CONVS_PER_BLOCK, conv_names, conv_shape

TORCH_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
TORCH_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
CAFFE_MEAN_BGR = torch.tensor([103.939, 116.779, 123.68])[:, None, None]


# --- Keras ---------------------------------------------------------------------------------------


def keras_vgg(model, seed=0):
    """Build Keras' own VGG with random weights that keep activations of one size."""
    build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[model]
    net = build(weights=None, include_top=False, input_shape=(64, 64, 3))
    rng = np.random.default_rng(seed)
    for layer in net.layers:
        if layer.weights:
            shape = layer.kernel.shape
            scale = np.sqrt(2 / np.prod(shape[:3]))
            layer.set_weights(
                [
                    rng.normal(0, scale, shape).astype(np.float32),
                    rng.normal(0, 10, shape[-1:]).astype(np.float32),
                ]
            )
    return net


def keras_taps(net, photo):
    """Run Keras' layers on ``photo`` (RGB in [0, 1]) as Keras prepares it; return all taps."""
    x = keras.applications.vgg19.preprocess_input(photo[None].astype(np.float32) * 255)
    taps = {}
    for layer in net.layers[1:]:
        if layer.weights:
            name = layer.name.replace("block", "").replace("_conv", "_")
            taps[f"conv{name}"] = np.asarray(layer.convolution_op(x, layer.kernel) + layer.bias)[0]
            x = layer(x)
            taps[f"relu{name}"] = np.asarray(x)[0]
        else:
            x = layer(x)
    return taps


def write_keras(net, kind, folder):
    """Save ``net`` as one of Keras' formats; return the path."""
    path = folder / f"{kind}.weights.h5"
    if kind == "legacy":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, net)
    elif kind == "legacy-old-names":
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [layer.name.encode() for layer in net.layers]
            for layer in net.layers:
                group = file.create_group(layer.name)
                values = [np.asarray(w) for w in layer.weights]
                names = [f"{layer.name}_{part}_1:0" for part in "Wb"][: len(values)]
                group.attrs["weight_names"] = [name.encode() for name in names]
                for name, value in zip(names, values, strict=True):
                    group[name] = value
    elif kind == "whole-model":
        path = folder / "whole.h5"
        with_top(net).save(path)
        with h5py.File(path, "a") as file:  # the optimiser's state, named as Keras 2 did
            file["optimizer_weights/Adam/block1_conv1/kernel/m:0"] = np.zeros((3, 3, 3, 64))
            file["optimizer_weights/Adam/block1_conv1/bias/m:0"] = np.zeros(64)
    elif kind == "legacy-with-top":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, with_top(net))
    else:
        net.save_weights(path)
        if kind == "keras3-unnamed":  # as Keras wrote it up to 3.7
            with h5py.File(path, "a") as file:
                for group in file["layers"].values():
                    del group["vars"].attrs["name"]
    return path


def with_top(net):
    """Put a small classifier under the names of the real one; the real one has 500 MB."""
    x = keras.layers.Flatten(name="flatten")(net.output)
    x = keras.layers.Dense(8, name="fc1")(x)
    return keras.Model(net.input, keras.layers.Dense(4, name="predictions")(x))


def write_sparse_keras(path, model, value=0.01):
    """Write a legacy Keras file of a few kilobytes: no data, only a fill value for each array."""
    with h5py.File(path, "w") as file:
        for name in conv_names(model):
            layer = f"block{name[4]}_conv{name[6]}"
            shape = conv_shape(name)
            for part, size in ((f"{layer}_W_1:0", shape), (f"{layer}_b_1:0", shape[-1:])):
                file.create_dataset(
                    f"{layer}/{part}", size, "f4", chunks=True, fillvalue=np.float32(value)
                )


# --- PyTorch -------------------------------------------------------------------------------------


def torch_vgg(model, seed=0):
    """Build torchvision's ``features`` of a VGG with random weights."""
    torch.manual_seed(seed)
    layers, width = [], 3
    for count, out in zip(CONVS_PER_BLOCK[model], BLOCK_WIDTHS, strict=True):
        for _ in range(count):
            conv = torch.nn.Conv2d(width, out, 3, padding=1)
            torch.nn.init.kaiming_normal_(conv.weight)
            torch.nn.init.normal_(conv.bias, std=0.1)
            layers += [conv, torch.nn.ReLU()]
            width = out
        layers.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*layers)


class Classifier(torch.nn.Module):
    """The layout of torchvision's VGG, with a tiny classifier."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.classifier = torch.nn.Sequential(torch.nn.Linear(8, 4))


def torch_taps(features, photo, preprocessing, model):
    """Run PyTorch's layers on ``photo`` (RGB in [0, 1]); return all taps as (h, w, c)."""
    x = torch.from_numpy(photo.astype(np.float32)).permute(2, 0, 1)
    if preprocessing == "torchvision":
        x = (x - TORCH_MEAN) / TORCH_STD
    else:
        x = x.flip(0) * 255 - CAFFE_MEAN_BGR
    names, taps = iter(conv_names(model)), {}
    x = x[None]
    with torch.no_grad():
        for layer in features:
            x = layer(x)
            if isinstance(layer, torch.nn.Conv2d):
                name = next(names)
                taps[name] = x[0].permute(1, 2, 0).numpy()
            elif isinstance(layer, torch.nn.ReLU):
                taps[name.replace("conv", "relu")] = x[0].permute(1, 2, 0).numpy()
    return taps


def gatys_names(state, model):
    """Rename ``features.N.…`` to ``conv1_1.…``."""
    weights = [key for key in state if key.startswith("features.")]
    names = [f"{name}.{part}" for name in conv_names(model) for part in ("weight", "bias")]
    return OrderedDict((name, state[key]) for key, name in zip(weights, names, strict=True))


class RebuiltAsIn2017:
    """Pickles a tensor by the name that PyTorch 0.1 used, with four arguments."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        storage = torch.storage.TypedStorage(
            wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        size, stride = tuple(self.tensor.size()), self.tensor.stride()
        return torch._utils._rebuild_tensor, (storage, self.tensor.storage_offset(), size, stride)


def sparse_state(counts=CONVS_PER_BLOCK["vgg16"], gap=2, value=0.01):
    """Make a state dict of a few kilobytes: each tensor is one number with strides of zero."""
    state, number, width = OrderedDict(), 0, 3
    for count, out in zip(counts, BLOCK_WIDTHS, strict=True):
        for _ in range(count):
            state[f"features.{number}.weight"] = torch.full((1,), value).expand(out, width, 3, 3)
            state[f"features.{number}.bias"] = torch.full((1,), value).expand(out)
            number, width = number + gap, out
        number += 1
    return state
