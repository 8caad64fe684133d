"""Every source and sink of audio or packets; each one a plug-in found by entry point."""
