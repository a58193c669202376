"""The public calls: what other people's code relies on keeps its names, its order and its defaults."""

import functools
import importlib
import inspect

import pytest

FIXED = {
    "model.build": "name num_classes input_size",
    "model.load": "",
    "data.to_input": "pictures card",
    "data.find_duplicates": "a b threshold=0.95",
    "trace.trace": "model",
    "deconvnet.Deconvnet": "model norm='identity'",
    "deconvnet.Deconvnet.project": "self images layer channel position=None rule='deconvnet'",
    "topk.top_activations": "model loader layers k=9",
    "occlusion.occlusion_maps": "model image target size stride layer=None fill=0.0 channel=None",
    "transfer.extract_features": "model loader layer",
    "transfer.fit_softmax": "features labels",
    "transfer.fit_svm": "features labels",
    "maximization.maximize": "model layer channel size=224",
    "invariance.invariance_curves": "model images transform values layers",
    "export.export_onnx": "model input_size layers folder half=False",
    "page.save_page": "model pictures path layers=None card=None labels=None features_only=False",
}


@pytest.mark.parametrize(("name", "words"), FIXED.items())
def test_a_public_call_is_as_fixed(name, words):
    room, *path = name.split(".")
    call = functools.reduce(getattr, path, importlib.import_module(f"zfcore.{room}"))
    given = inspect.signature(call).parameters
    for word in words.split():
        known, _, default = word.partition("=")
        assert known in given
        assert not default or repr(given[known].default) == default
    positional = [name for name, p in given.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [word for word in words.split() if "=" not in word]
    assert positional[: len(needed)] == needed
