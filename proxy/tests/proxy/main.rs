//! The proxy against scripted backends, in-process, on ports of the system's choice.

mod balance;
mod balance_seen;
mod drain;
mod edits;
mod endings;
mod faults;
mod frames;
mod grpc;
mod heads;
mod hedging;
mod hostile_http1;
mod hostile_http2;
mod interim;
mod kit;
mod listeners;
mod matrix;
mod pool;
mod pressure;
mod raw;
mod retry;
mod retry_policy;
mod rollout;
mod seeing;
mod soak;
mod tcp;
mod upgrade;
