"""Builders of records, a folder per dataset. How to add one: docs/extending.md#a-dataset."""
