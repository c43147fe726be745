//! HTTP/2 of our own (RFC 9113, RFC 7541, RFC 8441): a server and a client over any stream of bytes.
//!
//! `hpack` and `frame` know bytes, `connection` is the protocol without I/O, `driver` moves the
//! bytes of one connection within one task, `handle` is what the tasks of single streams hold.
//! Everything of a connection stays on one thread. Owns the protocol and its limits; refuses to
//! know what a request is for.

mod client;
mod clock;
mod connection;
mod driver;
mod error;
mod frame;
mod fuzz;
mod handle;
mod hpack;
mod server;
mod settings;

#[cfg(test)]
mod tests;

pub(crate) use client::{Client, client};
pub(crate) use connection::{Counters, Open};
pub(crate) use error::{Code, Error, StreamError};
pub(crate) use fuzz::fuzz;
pub(crate) use handle::{Event, RecvHead, RecvStream, SendStream};
#[cfg(test)]
pub(crate) use server::serve;
pub(crate) use server::{Request, serve_counted};
pub(crate) use settings::Settings;
