"""Benchmarks on real servers: SeaweedFS as the host, OpenBao as the key service, everything on this machine."""
