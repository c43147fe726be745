//! The proxy against scripted backends, in-process, on ports of the system's choice.

mod balance;
mod drain;
mod faults;
mod frames;
mod grpc;
mod hostile_http1;
mod hostile_http2;
mod kit;
mod listeners;
mod matrix;
mod pool;
mod raw;
mod retry;
mod tcp;
mod upgrade;
