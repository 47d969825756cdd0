"""The messages of TorchServe's gRPC inference API that the client needs, as its inference.proto declares them.

Built at import from that declaration in short, so that no generated code lies here.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "org.pytorch.serve.grpc.inference"
SERVICE = f"{PACKAGE}.InferenceAPIsService"

Field = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="torchserve_inference.proto", package=PACKAGE, syntax="proto3")
    request = file.message_type.add(name="PredictionsRequest")
    request.field.add(name="model_name", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    request.field.add(name="model_version", number=2, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    entry = f".{PACKAGE}.PredictionsRequest.InputEntry"
    request.field.add(name="input", number=3, type=Field.TYPE_MESSAGE, type_name=entry, label=Field.LABEL_REPEATED)
    pair = request.nested_type.add(name="InputEntry")
    pair.options.map_entry = True
    pair.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    pair.field.add(name="value", number=2, type=Field.TYPE_BYTES, label=Field.LABEL_OPTIONAL)
    response = file.message_type.add(name="PredictionResponse")
    response.field.add(name="prediction", number=1, type=Field.TYPE_BYTES, label=Field.LABEL_OPTIONAL)
    return file


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()  # of our own: nobody else's file of the same package can clash with it
    pool.Add(_file())
    names = ("PredictionsRequest", "PredictionResponse")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names}


PredictionsRequest, PredictionResponse = _classes().values()
