//! A request's head in the words of HTTP/1.1.

use base64::Engine as _;

use super::forward::Forward;
use crate::http1::{Length, Sending};
use crate::message::Known;

impl Forward<'_> {
    pub(super) fn write_request(&self, sending: &mut Sending<'_>, length: Length) {
        let extra: &[(&[u8], &[u8])] = match (self.upgrade, self.head.fields.contains(Known::Te)) {
            (Some(_), _) => &[(b"connection", b"upgrade")],
            // RFC 9110 §10.1.4: TE is for this connection only, and Connection says so.
            (None, true) => &[(b"connection", b"te")],
            (None, false) => &[],
        };
        sending.request(self.head, self.host(), self.target(), extra, length);
    }

    /// An extended CONNECT in the words of HTTP/1.1 (RFC 8441 §5).
    pub(super) fn write_upgrade(&self, sending: &mut Sending<'_>) {
        let mut head = self.head.clone();
        head.set_method(b"GET");
        let protocol = self.head.protocol().unwrap_or(b"websocket");
        let (high, low) = self.shared.random();
        let nonce = [high.to_be_bytes(), low.to_be_bytes()].concat();
        let key = base64::engine::general_purpose::STANDARD.encode(nonce);
        let extra: [(&[u8], &[u8]); 3] = [
            (b"connection", b"upgrade"),
            (b"upgrade", protocol),
            (b"sec-websocket-key", key.as_bytes()),
        ];
        sending.request(&head, self.host(), self.target(), &extra, Length::None);
    }
}
