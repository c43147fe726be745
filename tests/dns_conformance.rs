//! Conformance.

mod support;

#[test]
fn x() {}
