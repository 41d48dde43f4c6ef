"""SmolLM2's weights in other formats, so that each engine can be measured on what it takes well.

`python bench/engines/formats.py IN.gguf FORMAT OUT.gguf` re-encodes every matrix; what was lost in IN stays lost, so
answers say nothing here, only speed does.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

FORMATS = ("F32", "BF16", "Q8_0", "Q4_0")
FILE_TYPES = {"F32": 0, "BF16": 32, "Q8_0": 7, "Q4_0": 2}  # gguf.LlamaFileType


def write(source: Path, form: str, out: Path) -> None:
    """Write `source` with its matrices in `form`; vectors stay f32."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    writer.add_file_type(FILE_TYPES[form])
    kind = gguf.GGMLQuantizationType[form]
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim < 2 or form == "F32":
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
