"""Weights files: round trip, interoperation, and everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.errors import OutputError, WeightsError
from PALNetLandmarksLib.weights import check_shapes, load_weights, save_weights

METADATA = {"architecture": "PAL-Net", "config": {"n_landmarks": 50, "pools": [5, 5, 4]}, "labels": ["Tr", "Ex_R", "ñ"]}


def some_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "head.layer_1.weight": rng.normal(size=(4, 7)).astype(np.float32),
        "head.layer_1.bias": rng.normal(size=4),
        "scalar": np.float32(3.5),
        "empty": np.zeros((0, 3), np.float32),
        "indices": np.arange(5, dtype=np.int64),
        "transposed": rng.normal(size=(3, 2)).astype(np.float32).T,
        "mask": np.array([True, False]),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-7), ("float16", 1e-3)])
def test_round_trip(tmp_path, dtype, tolerance):
    path = tmp_path / "Gewichte für Gesichter 面.safetensors"
    arrays = some_arrays()
    digest = save_weights(path, arrays, METADATA, dtype)
    loaded = load_weights(path, sha256=digest.upper())
    assert loaded.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.name == path.name
    assert set(loaded.arrays) == set(arrays)
    for name, array in arrays.items():
        found = loaded.arrays[name]
        assert found.shape == np.shape(array)
        np.testing.assert_allclose(found.astype(float), np.asarray(array, float), rtol=tolerance, atol=tolerance / 100)
        if np.issubdtype(np.asarray(array).dtype, np.floating):
            assert found.dtype == np.float32
    assert loaded.arrays["indices"].dtype == np.int64
    assert loaded.arrays["mask"].tolist() == [True, False]
    assert all(isinstance(value, str) for value in loaded.metadata.values())
    assert loaded.metadata["architecture"] == "PAL-Net"
    assert loaded.fact("config") == METADATA["config"]
    assert loaded.fact("labels") == METADATA["labels"]
    with pytest.raises(WeightsError, match="do not say their version"):
        loaded.fact("version")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_content_gives_the_same_file(tmp_path):
    digests = {
        save_weights(tmp_path / "a", some_arrays(), METADATA),
        save_weights(tmp_path / "b", dict(reversed(some_arrays().items())), dict(reversed(METADATA.items()))),
    }
    assert len(digests) == 1
    assert save_weights(tmp_path / "c", some_arrays(1), METADATA) not in digests


def test_files_interoperate_with_the_safetensors_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    safe_open = pytest.importorskip("safetensors").safe_open
    arrays = some_arrays()
    save_weights(tmp_path / "ours", arrays, METADATA)
    with safe_open(tmp_path / "ours", framework="np") as file:
        assert json.loads(file.metadata()["config"]) == METADATA["config"]
        assert set(file.keys()) == set(arrays)
        for name in file.keys():  # noqa: SIM118 - not a dict
            np.testing.assert_allclose(file.get_tensor(name), np.asarray(arrays[name]), rtol=1e-6)
    theirs = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    package.save_file(theirs, tmp_path / "theirs", metadata={"made": "by the package"})
    loaded = load_weights(tmp_path / "theirs")
    assert loaded.metadata == {"made": "by the package"}
    for name, array in theirs.items():
        np.testing.assert_allclose(loaded.arrays[name], array.reshape(loaded.arrays[name].shape), rtol=1e-6)


def test_a_digest_beside_the_file_must_match(tmp_path):
    path = tmp_path / "model.safetensors"
    digest = save_weights(path, some_arrays(), METADATA)
    beside = tmp_path / "model.safetensors.sha256"
    beside.write_text(f"{digest}  model.safetensors\n", encoding="utf-8")
    assert load_weights(path).sha256 == digest
    beside.write_text(f"{'0' * 64}  model.safetensors\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"'model\.safetensors' are not the expected ones"):
        load_weights(path)
    beside.write_text("what?", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"'model\.safetensors\.sha256' holds no SHA-256"):
        load_weights(path)
    beside.unlink()
    with pytest.raises(WeightsError, match="not the expected ones"):
        load_weights(path, sha256="1" * 64)


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


NAN = np.array([np.nan, 1], "<f4").tobytes()
GOOD = file_of({"a": entry(), "b": entry(offsets=(8, 16))}, bytes(16))
BAD = {
    "empty": b"",
    "short": b"\x03\x00\x00",
    "text": b"These are no weights at all, but a letter to the editor.",
    "html": b"<!DOCTYPE html><html>404</html>",
    "pickle": pickle.dumps({"a": np.zeros(3)}, protocol=4),
    "pickle protocol 2": pickle.dumps({"a": 1}, protocol=2),
    "zip (npz, pt)": b"PK\x03\x04" + bytes(100),
    "header length beyond the file": file_of({"a": entry()}, bytes(8), length=10**6),
    "header length huge": file_of({"a": entry()}, bytes(8), length=2**64 - 1),
    "header length zero": file_of({"a": entry()}, bytes(8), length=0),
    "header cut": GOOD[:40],
    "header not JSON": file_of(b"{" + b"x" * 30, bytes(8)),
    "header not UTF-8": file_of(b'{"\xff\xfe": 1}', bytes(8)),
    "header nested too deep": file_of(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "truncated data": GOOD[:-1],
    "extra data": GOOD + b"x",
    "offset out of range": file_of({"a": entry(offsets=(8, 16))}, bytes(8)),
    "offset far out of range": file_of({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, bytes(8)),
    "offset negative": file_of({"a": entry(offsets=(-8, 0))}, bytes(8)),
    "offset not a number": file_of({"a": entry(offsets=("0", "8"))}, bytes(8)),
    "offset a truth value": file_of({"a": entry(shape=(), offsets=(False, 4))}, bytes(4)),
    "offsets swapped": file_of({"a": entry(offsets=(8, 0))}, bytes(8)),
    "offsets missing": file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "overlap": file_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "twice the same": file_of({"a": entry(), "b": entry()}, bytes(8)),
    "gap": file_of({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "shape of another size": file_of({"a": entry(shape=(3,))}, bytes(8)),
    "shape negative": file_of({"a": entry(shape=(-1, -2))}, bytes(8)),
    "shape not a list": file_of({"a": entry(shape=2)}, bytes(8)),
    "shape huge but empty": file_of({"a": entry(shape=(0, 2**61, 2**61), offsets=(0, 0))}),
    "shape of 40 dimensions": file_of({"a": entry(shape=(1,) * 40, offsets=(0, 4))}, bytes(4)),
    "unknown dtype": file_of({"a": entry(dtype="Q99")}, bytes(8)),
    "dtype not a text": file_of({"a": entry(dtype=["F32"])}, bytes(8)),
    "not a number": file_of({"a": entry()}, NAN),
    "infinite": file_of({"a": entry()}, np.array([np.inf, 1], "<f4").tobytes()),
    "infinite as float16": file_of({"a": entry("F16", (1,), (0, 2))}, np.array([np.inf], "<f2").tobytes()),
    "too large for float32": file_of({"a": entry("F64", (1,))}, np.array([1e300], "<f8").tobytes()),
    "name twice": file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "entry no object": file_of({"a": 7}, bytes(8)),
    "metadata no object": file_of({"__metadata__": "x", "a": entry()}, bytes(8)),
    "metadata no text": file_of({"__metadata__": {"version": 1}, "a": entry()}, bytes(8)),
    "name with line breaks": file_of({"a\n\x1b[31mb\ud800": entry(dtype="Q99")}, bytes(8)),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_and_foreign_files_are_refused_in_one_sentence(tmp_path, case):
    path = tmp_path / "Gewicht-é.safetensors"
    path.write_bytes(BAD[case])
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert "Gewicht-é.safetensors" in message
    assert message.endswith(".")
    assert "install it again" in message
    assert message.isprintable()
    assert len(message) < 400


def test_the_template_of_the_bad_files_is_good(tmp_path):
    (tmp_path / "good").write_bytes(GOOD)
    assert load_weights(tmp_path / "good").arrays["b"].tolist() == [0.0, 0.0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.one_of(st.none(), st.integers(0, 10_000)))
def test_any_changed_byte_or_cut_is_an_error_or_harmless(tmp_path, position, value, cut):
    """Whatever happens to a file, loading it raises WeightsError or gives finite arrays; nothing else."""
    path = tmp_path / "w"
    save_weights(path, some_arrays(), METADATA)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(bytes(content if cut is None else content[: cut % len(content)]))
    try:
        loaded = load_weights(path)
    except WeightsError as error:
        assert "'w'" in str(error)
    else:
        assert cut is None
        assert all(np.isfinite(array).all() for array in loaded.arrays.values())


def test_a_pickle_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        with pytest.raises(WeightsError, match=f"{protocol}.pt"):
            load_weights(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"Cannot read the weights .*nothing\.safetensors.*; check the path\."):
        load_weights(tmp_path / "nothing.safetensors")
    with pytest.raises(WeightsError, match="Cannot read the weights"):
        load_weights(tmp_path)
    with pytest.raises(OutputError, match="choose a folder"):
        save_weights(tmp_path / "no folder" / "w", some_arrays(), {})


@pytest.mark.parametrize(
    ("array", "dtype", "what"),
    [
        (np.array([np.nan]), "float32", "not finite"),
        (np.array([1e6]), "float16", "too large"),
        (np.array([1 + 2j]), "float32", "cannot be stored"),
        (np.array(["x"]), "float32", "cannot be stored"),
        (np.array([1.0]), "int8", "float32 or float16"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_the_old_file(tmp_path, array, dtype, what):
    path = tmp_path / "w"
    before = save_weights(path, some_arrays(), METADATA)
    with pytest.raises(ValueError, match=what):
        save_weights(path, {"a": array}, {}, dtype)
    assert load_weights(path).sha256 == before
    assert len(list(tmp_path.iterdir())) == 1


def test_shapes_are_checked():
    arrays = {"a": np.zeros((2, 3)), "b": np.zeros(4)}
    check_shapes(arrays, {"b": (4,), "a": (2, 3)})
    for expected, what in (
        ({"a": (2, 3), "b": (4,), "c": (1,)}, "they lack 'c'"),
        ({"a": (3, 2), "b": (4,)}, r"'a' has shape \(2, 3\), not \(3, 2\)"),
        ({"a": (2, 3)}, "which has 'b'"),
    ):
        with pytest.raises(WeightsError, match=rf"'model' are made for another network .*{what}"):
            check_shapes(arrays, expected, "model")
