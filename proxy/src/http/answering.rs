//! The response towards the client: its head, once, in the client's version.
//!
//! Owns what the client's connection comes to afterwards.

use bytes::Bytes;

use super::body::Outgoing;
use super::grpc_web::{self, Form};
use super::local::Local;
use super::passing;
use crate::http1::Length;
use crate::message::{Known, ResponseHead};

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1.0: no chunks, no interim responses.
    Http10,
    Http11,
    Http2,
}

pub(super) struct Answering<'a> {
    pub(super) out: Outgoing<'a>,
    pub(super) speaks: Speaks,
    /// The request's method is HEAD.
    no_body: bool,
    /// Another request may follow on the connection.
    pub(super) keep_alive: bool,
    /// The head was queued.
    pub(super) begun: bool,
    /// The end of the body is the end of the connection.
    pub(super) unframed: bool,
    pub(super) status: u16,
    /// The form of gRPC-Web in which the client takes it, and once the head was queued, in which its
    /// body goes.
    pub(super) web: Option<Form>,
    /// Bytes of the body that the proxy wrote itself.
    pub(super) local_bytes: u64,
}

impl<'a> Answering<'a> {
    pub(super) fn new(out: Outgoing<'a>, speaks: Speaks, no_body: bool, keep_alive: bool) -> Self {
        let (begun, unframed, status, web, local_bytes) = (false, false, 0, None, 0);
        Self { out, speaks, no_body, keep_alive, begun, unframed, status, web, local_bytes }
    }

    /// Queues an interim response, if the client understands those.
    pub(super) fn interim(&mut self, head: &mut ResponseHead) {
        passing::response(&mut head.fields, false);
        match (&mut self.out, self.speaks) {
            (_, Speaks::Http10) | (Outgoing::Nowhere, _) => {}
            (Outgoing::Http1(out), _) => out.response(head, Length::None, false),
            (Outgoing::Http2(out), _) => out.stream.send_informational(head),
        }
    }

    /// Queues the head. Its fields were made those of this connection.
    pub(super) fn head(&mut self, head: &mut ResponseHead, length: Length) {
        self.begun = true;
        self.status = head.status;
        let bodiless = self.no_body || head.status == 204 || head.status == 304;
        let length = self.web(head, length);
        match &mut self.out {
            Outgoing::Http1(out) => {
                let length = match length {
                    // RFC 9112 §6.1: HTTP/1.0 knows no chunks.
                    Length::Chunked | Length::Close if self.speaks == Speaks::Http10 => {
                        Length::Close
                    }
                    Length::Close => Length::Chunked,
                    length => length,
                };
                self.unframed = length == Length::Close && !bodiless;
                self.keep_alive &= !self.unframed;
                match (self.keep_alive, self.speaks) {
                    (false, _) => head.fields.push_as(Known::Connection, b"connection", b"close"),
                    (true, Speaks::Http10) => {
                        head.fields.push_as(Known::Connection, b"connection", b"keep-alive");
                    }
                    (true, _) => {}
                }
                if length == Length::Chunked {
                    head.fields.remove(Known::ContentLength);
                }
                out.response(head, length, bodiless);
            }
            Outgoing::Http2(out) => {
                let end = bodiless || length == Length::None;
                out.stream.send_head(head, end);
                if end {
                    out.set_ended();
                }
            }
            Outgoing::Nowhere => {}
        }
    }

    /// Puts the head of a response into the form of gRPC-Web, if that is asked for and it is one of
    /// gRPC. Where there is a head alone it says the status, and there is no body to say it again.
    fn web(&mut self, head: &mut ResponseHead, length: Length) -> Length {
        let Some(form) = self.web.take() else { return length };
        if !grpc_web::answer(form, &mut head.fields) || length == Length::None {
            return length;
        }
        self.web = Some(form);
        head.fields.remove(Known::ContentLength);
        Length::Chunked
    }

    /// Queues the head that turns the connection, or the stream, into a tunnel.
    pub(super) fn tunnel(&mut self, head: &mut ResponseHead, upgrade: bool) {
        self.begun = true;
        self.keep_alive = false;
        self.unframed = true;
        match &mut self.out {
            Outgoing::Http1(out) => {
                if upgrade {
                    head.fields.push_as(Known::Connection, b"connection", b"upgrade");
                }
                // What a tunnel begins with has no length (RFC 9110 §9.3.6).
                head.fields.remove(Known::ContentLength);
                out.response(head, Length::None, true);
                out.begin_tunnel();
            }
            Outgoing::Http2(out) => {
                // RFC 8441 §5.1: what is 101 in HTTP/1.1 is 200 here.
                head.status = 200;
                head.fields.remove(Known::Upgrade);
                head.fields.remove_named(b"sec-websocket-accept");
                out.stream.send_head(head, false);
            }
            Outgoing::Nowhere => {}
        }
        self.status = head.status;
    }

    /// Queues an answer the proxy makes itself. One that stands for a failure says the id of its
    /// request, for which there is a decision record.
    pub(super) fn local(&mut self, local: &Local, grpc: bool, request_id: Option<&[u8]>) {
        let (mut head, text) = local.response(grpc);
        let failed = local.reason.is_failure() || head.status >= 500;
        if let Some(id) = request_id.filter(|_| failed) {
            head.fields.push_as(Known::RequestId, b"x-request-id", id);
        }
        let length = match text.len() {
            0 => Length::None,
            n => Length::Known(u64::try_from(n).unwrap_or(0)),
        };
        if self.no_body && !text.is_empty() {
            head.fields.push(b"content-length", text.len().to_string().as_bytes());
        }
        self.head(&mut head, length);
        if !self.no_body && !text.is_empty() {
            self.local_bytes = u64::try_from(text.len()).unwrap_or(0);
            self.out.data(Bytes::from(text));
        }
        self.out.finish(None);
    }
}
