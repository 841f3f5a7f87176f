"""Seal health datasets before they leave the machine."""
