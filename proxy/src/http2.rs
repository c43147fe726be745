//! Stub until the engine is merged.
#![expect(missing_docs, dead_code, unused_variables, clippy::all, reason = "stub")]
use crate::message::*;
use bytes::Bytes;
use std::task::*;
pub(crate) enum Never {}
pub(crate) struct RecvStream(Never);
pub(crate) struct SendStream(Never);
pub(crate) struct RecvHead(Never);
#[derive(Clone)]
pub(crate) struct Client(std::rc::Rc<Never>);
pub(crate) struct Request {
    pub(crate) head: RequestHead,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendStream,
}
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("reset {0}")]
    Reset(u32),
    #[error("refused")]
    Refused,
    #[error("gone away")]
    GoneAway,
    #[error("{0}")]
    Connection(String),
}
pub(crate) enum Event {
    Informational(ResponseHead),
    Final(ResponseHead, RecvStream),
}
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) max_concurrent_streams: u32,
    pub(crate) max_header_list: u32,
    pub(crate) idle_timeout: Option<std::time::Duration>,
    pub(crate) max_age: Option<std::time::Duration>,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) keepalive: Option<(std::time::Duration, std::time::Duration)>,
}
pub(crate) async fn serve<S>(
    io: S,
    prefix: Bytes,
    settings: &Settings,
    closing: impl Future<Output = ()>,
    on_request: impl FnMut(Request),
) -> Result<(), StreamError> {
    Ok(())
}
pub(crate) fn client<S>(io: S, settings: &Settings) -> (Client, std::future::Ready<()>) {
    panic!("stub")
}
impl Client {
    pub(crate) fn open(
        &self,
        head: &RequestHead,
        authority: &[u8],
        end: bool,
    ) -> Result<(SendStream, RecvHead), StreamError> {
        match *self.0 {}
    }
    pub(crate) fn is_usable(&self) -> bool {
        match *self.0 {}
    }
    pub(crate) fn active(&self) -> usize {
        match *self.0 {}
    }
    pub(crate) fn room(&self) -> usize {
        match *self.0 {}
    }
    pub(crate) fn drain(&self) {
        match *self.0 {}
    }
}
impl RecvHead {
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>> {
        match self.0 {}
    }
}
impl RecvStream {
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamError>>> {
        match self.0 {}
    }
    pub(crate) fn trailers(&mut self) -> Option<Fields> {
        match self.0 {}
    }
    pub(crate) fn release(&mut self, n: usize) {
        match self.0 {}
    }
    pub(crate) fn is_end(&self) -> bool {
        match self.0 {}
    }
    pub(crate) fn content_length(&self) -> Option<u64> {
        match self.0 {}
    }
}
impl SendStream {
    pub(crate) fn send_informational(&mut self, head: &ResponseHead) {
        match self.0 {}
    }
    pub(crate) fn send_head(&mut self, head: &ResponseHead, end: bool) {
        match self.0 {}
    }
    pub(crate) fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, StreamError>> {
        match self.0 {}
    }
    pub(crate) fn send_data(&mut self, data: Bytes, end: bool) {
        match self.0 {}
    }
    pub(crate) fn send_trailers(&mut self, fields: &Fields) {
        match self.0 {}
    }
    pub(crate) fn finish(&mut self) {
        match self.0 {}
    }
    pub(crate) fn reset(&mut self, code: u32) {
        match self.0 {}
    }
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<u32> {
        match self.0 {}
    }
}
