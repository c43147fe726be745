//! The proxy against scripted backends, in-process, on ports of the system's choice.

mod balance;
mod drain;
mod grpc;
mod kit;
mod listeners;
mod matrix;
mod pool;
mod retry;
mod seeing;
mod tcp;
