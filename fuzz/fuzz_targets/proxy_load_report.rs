//! Arbitrary bytes as a load report (ORCA) in a header.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::load_report(bytes));
