//! The backends, the gRPC client and the shop, over real sockets on loopback.

mod call;
mod call_errors;
mod grpc;
mod http;
mod reflection;
mod shop;
mod support;
mod tcp;
