"""Widgets of the panel; they know Qt and the library, but no scene."""
