"""The damaged documents of the fuzz tests are varied, and the same in every run."""

import json

from mutations import mutations

DOCUMENT = {"name": "é", "list": [1, {"inner": [2.5, None]}], "settings": {"size": [128, 192], "on": True}}


def test_mutations_are_reproducible_and_varied():
    before = json.dumps(DOCUMENT)
    first = list(mutations(DOCUMENT, 200, seed=0))
    assert len(first) == 200 and first == list(mutations(DOCUMENT, 200, seed=0))
    assert json.dumps(DOCUMENT) == before
    assert first != list(mutations(DOCUMENT, 200, seed=4)) and len(set(first)) > 120
    valid = []
    for data in first:
        try:
            valid.append(json.loads(data))
        except (ValueError, RecursionError):
            continue
    assert 80 < len(valid) < 180
    differ = [one for one in valid if isinstance(one, dict) and one != DOCUMENT]
    assert any("name" not in one for one in differ) and any(one.get("name") is None for one in differ)
    assert any(isinstance(one.get("settings"), list) for one in differ)


def test_small_documents_have_mutations():
    for document in ({}, [], [1], {"a": 1}):
        assert len(list(mutations(document, 60, seed=0))) == 60
