"""Serving: OpenAI's API over HTTP, for programs, and a page in front of it, for people."""
