"""Each tensor has the width that config.json and the metadata claim for it."""
import json
import pathlib

from safetensors import safe_open

from conftest import DEMO


def shapes_of(directory):
    shapes = {}
    for shard in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with safe_open(shard, "numpy") as file:
            for name in file.keys():
                shapes[name] = tuple(file.get_slice(name).get_shape())
    return shapes


def widths_of(shapes):
    """{module: (bits, group_size)} by shapes alone, given the source's columns."""
    columns = {name.removesuffix(".weight"): shape[-1]
               for name, shape in shapes_of(DEMO).items() if len(shape) == 2}
    widths = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".scales")
        if module == name:
            continue
        k = columns[module.removeprefix("language_model.")]
        n_words = shapes[module + ".weight"][-1]
        assert 32 * n_words % k == 0, f"{module}: {n_words} words for {k} columns"
        widths[module] = (32 * n_words // k, k // shape[-1])
    return widths


def test_the_file_holds_the_widths_that_its_config_claims(converted):
    widths = widths_of(shapes_of(converted))
    config = json.loads((converted / "config.json").read_text())
    quantization = config["quantization"]
    assert config["quantization_config"] == quantization
    defaults = (quantization["bits"], quantization["group_size"])
    for module, width in widths.items():
        entry = quantization.get(module)
        claimed = (entry["bits"], entry["group_size"]) if entry else defaults
        assert width == claimed, module
    for module, entry in quantization.items():
        if isinstance(entry, dict):
            assert module in widths, f"config.json names {module}, which has no scales"
    assert len({bits for bits, _ in widths.values()}) > 1, "nothing was mixed"


def test_the_metadata_and_inspect_say_the_same_widths(optiq, converted):
    widths = widths_of(shapes_of(converted))
    metadata = json.loads((converted / "optiq/metadata.json").read_text())
    inspected = {layer["name"]: layer for layer in
                 optiq.json("inspect", converted)["layers"]}
    for module, (bits, group_size) in widths.items():
        plain = module.removeprefix("language_model.")
        listed = metadata["per_layer"].get(module) or metadata["per_layer"][plain]
        assert (listed["bits"], listed["group_size"]) == (bits, group_size), module
        seen = inspected.get(module) or inspected[plain]
        assert (seen["bits"], seen["group_size"]) == (bits, group_size), module


def test_the_index_lists_every_tensor_once(converted):
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(shapes_of(converted))
