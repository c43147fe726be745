"""What is measured: the scenarios, and the load of each."""

import collections

# `figure`: what is counted per CPU-second ("requests", "messages", "connections" or "MB").
# `load`: the command of portolan-load and its options, `listener` where it goes.
# `workers`: of the proxy; with more than one, or with `spread`, everything runs on both cores.
Scenario = collections.namedtuple(
    "Scenario", "name title figure listener load workers spread", defaults=(1, False)
)

KEEP = ["http1", "--connections", 64]
CALLS = ["--connections", 8, "--streams", 8]
STREAMS = ["--mode", "stream", "--size", 64, "--connections", 8, "--streams", 4, "--outstanding", 4]
KB, MB = 1 << 10, 1 << 20

CLOSED = [
    Scenario(
        "h1-0",
        "HTTP/1.1, kept alive, no body; 64 connections",
        "requests",
        "http1",
        [*KEEP, "--path", "/0"],
    ),
    Scenario(
        "h1-1k",
        "HTTP/1.1, kept alive, 1 KiB; 64 connections",
        "requests",
        "http1",
        [*KEEP, "--path", "/1k"],
    ),
    Scenario(
        "h1-16k",
        "HTTP/1.1, kept alive, 16 KiB; 64 connections",
        "requests",
        "http1",
        [*KEEP, "--path", "/16k"],
    ),
    Scenario(
        "h1-1m",
        "HTTP/1.1, kept alive, 1 MiB; 16 connections",
        "requests",
        "http1",
        ["http1", "--connections", 16, "--path", "/1m"],
    ),
    Scenario(
        "h1-new",
        "HTTP/1.1, a client connection per request, 1 KiB; 64 at once",
        "requests",
        "http1",
        [*KEEP, "--path", "/1k", "--mode", "once"],
    ),
    Scenario(
        "h2-h1",
        "HTTP/2 to an HTTP/1.1 upstream, 1 KiB; 8 connections of 8 streams",
        "requests",
        "http2-to-http1",
        ["http2", *CALLS, "--size", KB, "--path", "/1k"],
    ),
    Scenario(
        "h2-h2",
        "HTTP/2 to an HTTP/2 upstream, 1 KiB; 8 connections of 8 streams",
        "requests",
        "http2",
        ["http2", *CALLS, "--size", KB, "--path", "/1k"],
    ),
    Scenario(
        "grpc-unary",
        "gRPC, unary calls of 64 octets each way; 8 connections of 8 calls",
        "requests",
        "grpc",
        ["http2", *CALLS, "--mode", "unary", "--size", 64, "--path", "/bench.Echo/Say"],
    ),
    Scenario(
        "grpc-stream",
        "gRPC, messages of 64 octets there and back on 8 x 4 lasting streams, 4 under way on each",
        "messages",
        "grpc",
        ["http2", *STREAMS, "--path", "/bench.Echo/Talk"],
    ),
    Scenario(
        "tcp-down",
        "TCP, 8 long streams to the client",
        "MB",
        "source",
        ["tcp", "--mode", "source", "--connections", 8],
    ),
    Scenario(
        "tcp-up",
        "TCP, 8 long streams from the client",
        "MB",
        "sink",
        ["tcp", "--mode", "sink", "--connections", 8],
    ),
    Scenario(
        "tcp-new",
        "TCP, a connection for each octet that is echoed; 64 at once",
        "connections",
        "echo",
        ["tcp", "--mode", "connect", "--connections", 64],
    ),
    Scenario(
        "tls-full",
        "TLS 1.3, a handshake in full and a request for each connection; 16 at once",
        "connections",
        "https",
        ["tls", "--mode", "full", "--connections", 16, "--path", "/0"],
    ),
    Scenario(
        "tls-resumed",
        "TLS 1.3, a resumed session and a request for each connection; 16 at once",
        "connections",
        "https",
        ["tls", "--mode", "resumed", "--connections", 16, "--path", "/0"],
    ),
    Scenario(
        "tls-1m",
        "HTTP/1.1 within TLS 1.3 (AES-128-GCM), kept alive, 1 MiB; 16 connections",
        "MB",
        "https",
        ["tls", "--connections", 16, "--path", "/1m"],
    ),
    Scenario(
        "workers-1",
        "HTTP/1.1, 1 KiB, 64 connections: one worker, all on both cores",
        "requests",
        "http1",
        [*KEEP, "--path", "/1k"],
        1,
        True,
    ),
    Scenario(
        "workers-2",
        "HTTP/1.1, 1 KiB, 64 connections: two workers, all on both cores",
        "requests",
        "http1",
        [*KEEP, "--path", "/1k"],
        2,
        True,
    ),
    Scenario(
        "workers-2-few",
        "HTTP/1.1, 1 KiB, 2 connections: two workers, all on both cores",
        "requests",
        "http1",
        ["http1", "--connections", 2, "--path", "/1k"],
        2,
        True,
    ),
]
# Measured otherwise: see `run`.
LATENCY, IDLE = "latency", "idle"
NAMES = [scenario.name for scenario in CLOSED] + [LATENCY, IDLE]
# The load of the latency scenario, and the shares of a proxy's own maximum that it is measured at.
LATENCY_LOAD = ("http1", [*KEEP, "--path", "/1k"])
SHARES = [0.3, 0.6]
IDLE_CONNECTIONS = 10_000
