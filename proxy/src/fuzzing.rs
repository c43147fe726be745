//! What the fuzzer calls, and the replay of its corpora: every parser of bytes that nobody vouches
//! for. Each panics when a rule that holds for every input is broken.

/// As heads, chunks and trailers of HTTP/1.1.
pub fn http1(data: &[u8]) {
    crate::http1::fuzz(data);
}

/// As what either end of an HTTP/2 connection is sent.
pub fn http2(data: &[u8]) {
    crate::http2::fuzz(data);
}

/// As the beginning of a connection that may have a PROXY header.
pub fn proxy_protocol(data: &[u8]) {
    crate::proxy_protocol::fuzz(data);
}

/// As the first bytes of a connection of which it is not known what it carries.
pub fn classify(data: &[u8]) {
    crate::tcp::classify::fuzz(data);
}

/// As a load report in a header.
pub fn load_report(data: &[u8]) {
    crate::balance::orca::parse::fuzz(data);
}

/// As a body of gRPC-Web in text, a session in a cookie, and the context of a trace.
pub fn fields(data: &[u8]) {
    crate::http::fuzz(data);
    crate::trace::context::fuzz(data);
}
