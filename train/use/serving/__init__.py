"""Serving trained runs over HTTP: questions in batches of few shapes, generation in slots, one engine thread each."""
