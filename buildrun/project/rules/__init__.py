"""The rules that JSON Schemas cannot say, one subject a module."""
