//! Tests of the two paths over in-memory tables. Sockets are tested in `dns/tests/`.

mod cases;
mod history;
pub(crate) mod kit;
mod mutation;
mod oracle;
mod shapes;
mod truncation;
