"""A detector whose answers can be foretold: red spots are small faces, green ones are large faces."""

import json
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

RED, GREEN = (255, 0, 0), (0, 255, 0)
REACH = 2.0  # each face reaches so many strides from its cell's middle to every side


def spot_model(kind: str = "face-detector") -> onnx.ModelProto:
    """Strides 8 and 16; a cell all red at 8, or all green at 16, is a face with a logit of 7.75."""

    def constant(name: str, values: object, dtype: int = TensorProto.FLOAT) -> onnx.TensorProto:
        array = np.array(values)
        return helper.make_tensor(name, dtype, array.shape, array.ravel().tolist())

    nodes = [helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT)]
    constants = [
        constant("shape", [0, -1, 1], TensorProto.INT64),
        constant("dull", 500.0),
        constant("faint", 0.03125),
        constant("none", [[[0.0]]]),
        constant("reach", [[[REACH] * 4]]),
    ]
    for stride, colour in ((8, RED), (16, GREEN)):
        weight = np.where(np.array(colour) > 0, 3.0, -3.0).reshape(1, 3, 1, 1)
        constants.append(constant(f"w{stride}", weight))
        window = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes += [
            helper.make_node("AveragePool", ["pixels"], [f"p{stride}"], **window),
            helper.make_node("Conv", [f"p{stride}", f"w{stride}"], [f"c{stride}"]),
            helper.make_node("Sub", [f"c{stride}", "dull"], [f"d{stride}"]),
            helper.make_node("Mul", [f"d{stride}", "faint"], [f"s{stride}"]),
            helper.make_node("Reshape", [f"s{stride}", "shape"], [f"score{stride}"]),
            helper.make_node("Mul", [f"score{stride}", "none"], [f"zero{stride}"]),
            helper.make_node("Add", [f"zero{stride}", "reach"], [f"box{stride}"]),
            helper.make_node("Concat", [f"box{stride}", f"score{stride}"], [f"raw{stride}"], axis=2),
        ]
    nodes.append(helper.make_node("Concat", ["raw8", "raw16"], ["raw"], axis=1))
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", 3, "H", "W"])],
        [helper.make_tensor_value_info("raw", TensorProto.FLOAT, ["B", "N", 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"kind": kind, "strides": json.dumps([8, 16]), "long_side": "160"})
    return model


def spotted(
    width: int = 160,
    height: int = 128,
    red: Sequence[tuple[int, int]] = (),
    green: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """Return a grey image with a spot of 8 pixels at each of the red places and of 16 at the green ones (x, y)."""
    image = np.full((height, width, 3), 90, np.uint8)
    image += np.arange(width, dtype=np.uint8)[None, :, None] // 8  # so that no two places look the same
    for side, places, colour in ((8, red, RED), (16, green, GREEN)):
        for x, y in places:
            image[y : y + side, x : x + side] = colour
    return image
