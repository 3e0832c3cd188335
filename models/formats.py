"""Files that other runtimes read: ONNX and TorchScript of a deployed model, with what it says about itself inside.

`draft` gives the model in a format with its logits, which are compared; its `finish` the content of the file, without them; `open_file`
runs such a content as its users will.
"""

import io
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import InputError
from models.deploy import INPUT, DeployedModel

FormatName = Literal["onnx", "torchscript"]
SUFFIXES: dict[FormatName, str] = {"onnx": ".onnx", "torchscript": ".pt"}

METADATA_KEY = "taxomix"
"""Of ONNX's metadata_props; in TorchScript the extra file METADATA_KEY.json."""

EXAMPLE_SIZE = (331, 461)
"""Of the images that are traced. Odd, and no map of any network has the size of another's or of the image by chance: a comparison of
sizes would be answered once and for all."""

Run = Callable[[Tensor], dict[str, Tensor]]
"""Images (N, 3, H, W) uint8 to the outputs by name."""

Metadata = dict[str, Any]


class Draft(ABC):
    """A model in its format, with logits among the outputs."""

    @abstractmethod
    def run(self, images: Tensor) -> dict[str, Tensor]: ...

    @abstractmethod
    def finish(self, metadata: Metadata) -> bytes: ...


def draft(name: FormatName, model: DeployedModel, *, size: tuple[int, int] | None, opset: int | None) -> Draft:
    """`size`: height and width of all images; None: any. Raises InputError where a package is missing."""
    images = torch.zeros(2, 3, *(size or EXAMPLE_SIZE), dtype=torch.uint8)
    return OnnxDraft(model, images, is_dynamic=size is None, opset=opset) if name == "onnx" else TorchScriptDraft(model, images)


def check_installed(name: FormatName) -> None:
    """Raises InputError where a package for the format is missing."""
    if name == "onnx":
        _import_onnx()


def open_file(name: FormatName, content: bytes) -> tuple[Run, Metadata]:
    return open_onnx(content) if name == "onnx" else open_torchscript(content)


class OnnxDraft(Draft):
    def __init__(self, model: DeployedModel, images: Tensor, *, is_dynamic: bool, opset: int | None) -> None:
        onnx = _import_onnx()
        names = model.output_names(logits=True)
        dynamic = torch.export.Dim.DYNAMIC
        axes = {0: dynamic, 2: dynamic, 3: dynamic} if is_dynamic else {0: dynamic}
        with _quiet(), _telling(opset):
            program = torch.onnx.export(
                _InOrder(model, names),
                (images,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[INPUT],
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
        assert program is not None
        self.proto = program.model_proto
        _name_sizes(self.proto.graph, images.shape[2:] if not is_dynamic else None)
        onnx.checker.check_model(self.proto, full_check=True)
        self._run = _onnx_run(self.proto.SerializeToString())

    def run(self, images: Tensor) -> dict[str, Tensor]:
        return self._run(images)

    def finish(self, metadata: Metadata) -> bytes:
        onnx = _import_onnx()
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for output in [output for output in proto.graph.output if output.name.startswith("logits_")]:
            proto.graph.output.remove(output)
        entry = proto.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, json.dumps(metadata)
        proto.producer_name, proto.producer_version = "taxomix", metadata.get("taxomix_version", "")
        proto.doc_string = f"{metadata.get('summary', '')}"
        onnx.checker.check_model(proto, full_check=True)
        content: bytes = proto.SerializeToString()
        return content


class _InOrder(nn.Module):
    """The outputs as a tuple, in the order of their names: that of a mapping is the tracer's own affair."""

    def __init__(self, model: DeployedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.model(images, logits=True)
        return tuple(out[name] for name in self.names)


def _name_sizes(graph: Any, size: tuple[int, ...] | None) -> None:
    """Let input and outputs say batch, height and width, in place of the tracer's symbols, which are dropped inside of the graph too."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        for position, name in ((-2, "height"), (-1, "width")):
            if size is None:
                dims[position].dim_param = name
            else:
                dims[position].dim_value = size[position]


def open_onnx(content: bytes) -> tuple[Run, Metadata]:
    """As ONNX Runtime runs it on the CPU."""
    onnx = _import_onnx()
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    return _onnx_run(content), json.loads(properties[METADATA_KEY])


def _onnx_run(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        values = session.run(names, {INPUT: np.ascontiguousarray(images.numpy())})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"format=onnx: {error}, expected the packages onnx, onnxscript and onnxruntime; pip install '.[export]', or give "
            "format=torchscript"
        ) from None
    return onnx


class TorchScriptDraft(Draft):
    def __init__(self, model: DeployedModel, images: Tensor) -> None:
        self.model, self.images = model, images
        self._run = open_torchscript(self._content(logits=True, metadata={}))[0]

    def run(self, images: Tensor) -> dict[str, Tensor]:
        return self._run(images)

    def finish(self, metadata: Metadata) -> bytes:
        return self._content(logits=False, metadata=metadata)

    def _content(self, *, logits: bool, metadata: Metadata) -> bytes:
        with _quiet(), torch.no_grad():
            traced = torch.jit.trace(_Outputs(self.model, logits=logits).eval(), self.images, strict=False, check_trace=False)
            follow_device(traced)
            file = io.BytesIO()
            torch.jit.save(traced, file, _extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})
        return file.getvalue()


class _Outputs(nn.Module):
    def __init__(self, model: DeployedModel, *, logits: bool) -> None:
        super().__init__()
        self.model, self.logits = model, logits

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.model(images, logits=self.logits)
        return out


def follow_device(traced: Any) -> None:
    """Let a traced module compute where its input lies: a trace names the device that it was made on, wherever it is loaded."""
    graph = traced.graph
    torch._C._jit_pass_inline(graph)
    constants = [node for node in graph.findAllNodes("prim::Constant") if node.output().type().kind() in ("DeviceObjType", "TensorType")]
    device = graph.create("prim::device", [list(graph.inputs())[1]], 1)
    device.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(device)
    graph.setInsertPoint(next(node for node in graph.nodes() if node != device))
    nothing, no = graph.insertConstant(None), graph.insertConstant(False)
    for node in constants:
        value = node.output()
        if value.type().kind() == "DeviceObjType":
            value.replaceAllUsesWith(device.output())
        elif value.type().dim():  # numbers are sizes, which are computed on the CPU
            moved = graph.create("aten::to", [value, device.output(), nothing, no, no], 1)
            moved.insertAfter(node)
            value.replaceAllUsesAfterNodeWith(moved, moved.output())
    torch._C._jit_pass_dce(graph)
    graph.lint()


def open_torchscript(content: bytes) -> tuple[Run, Metadata]:
    extra = {f"{METADATA_KEY}.json": ""}
    with _quiet():
        module = torch.jit.load(io.BytesIO(content), map_location="cpu", _extra_files=extra)

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            out: dict[str, Tensor] = module(images)
            return out

    return run, json.loads(extra[f"{METADATA_KEY}.json"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own future, and of every size that they meet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _telling(opset: int | None) -> Iterator[None]:
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            f"format=onnx, opset={opset or 'default'}: torch {torch.__version__} cannot export the model "
            f"({' '.join(str(error).split())[:300]}); give size=[HEIGHT, WIDTH], another opset= or format=torchscript"
        ) from error
