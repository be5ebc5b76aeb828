"""The generated protobuf module is what alcor.proto generates."""

from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

import alcor

WIRE = Path(alcor.__file__).parent / "wire"


def test_the_generated_module_is_up_to_date(tmp_path: Path) -> None:
    """After editing alcor.proto:

    python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src src/alcor/wire/alcor.proto
    """
    source = WIRE.parent.parent
    included = str(files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{source}", f"-I{included}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    assert protoc.main([*arguments, str(WIRE / "alcor.proto")]) == 0
    for name in ("alcor_pb2.py", "alcor_pb2.pyi"):
        assert (tmp_path / "alcor" / "wire" / name).read_text() == (WIRE / name).read_text(), f"{name} is out of date"
