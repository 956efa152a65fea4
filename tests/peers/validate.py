"""Reads {"schema": ..., "documents": {name: ...}} and prints a line for each document's first error."""

import json
import sys

import jsonschema

given = json.load(sys.stdin)
schema = given["schema"]
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for name, document in given["documents"].items():
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        print(f"{name}: {error.json_path}: {error.message[:200]}")
