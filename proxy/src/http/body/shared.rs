//! A request's body that several tries have at the same time.
//!
//! Whoever runs the tries reads it, and each try gets all of it. What is read is bounded: while one try
//! alone has it, by what that takes; and further tries can have it as long as all of it is kept for them.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use super::copied::{self, Copied, Tap};
use super::{Incoming, ReadError, Source};
use crate::http1::Length;

/// Bytes that are read before any try takes them.
const AHEAD: usize = 32 * 1024;

pub(crate) struct Shared<'s, 'a> {
    source: &'s mut Source<'a>,
    /// Of the try that reads what comes, while there is more to come.
    current: Option<Tap>,
    /// For tries to come.
    kept: VecDeque<(Tap, Copied)>,
    read: usize,
    ended: bool,
}

impl<'s, 'a> Shared<'s, 'a> {
    /// For so many tries at most.
    pub(crate) fn new(source: &'s mut Source<'a>, tries: usize) -> Self {
        let length = source.length();
        let kept = (0..tries).map(|_| copied::channel(length)).collect();
        Self { source, current: None, kept, read: 0, ended: length == Length::None }
    }

    /// Whether another try can have all of it; beside one that is under way only once all of it was read.
    pub(crate) fn is_ready(&self, beside: bool) -> bool {
        let next = self.kept.front();
        next.is_some_and(|(_, copied)| copied.is_sound()) && (self.ended || !beside)
    }

    /// The body for another try. None that came before reads on, unless all of it was read.
    pub(crate) fn take(&mut self) -> Option<Source<'static>> {
        let (tap, copied) = self.kept.pop_front()?;
        self.current = (!self.ended).then_some(tap);
        Some(Source::new(Incoming::Copied(copied)))
    }

    /// There is no further try.
    pub(crate) fn settle(&mut self) {
        self.kept.clear();
    }

    /// Reads on, as far as there is room for it. Completes when the client is gone, or its body cannot be
    /// read.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<ReadError>> {
        while !self.ended {
            let taken = || self.current.as_ref().is_some_and(Tap::is_idle);
            // As long as all of it can be had by another try, that one may be needed for the first to be
            // left.
            let kept = || self.kept.front().is_some_and(|(_, copied)| copied.is_sound());
            if self.read >= AHEAD && !taken() && !kept() {
                return Poll::Pending;
            }
            match ready!(self.source.poll_piece(cx)) {
                Ok(Some(piece)) => {
                    self.read += piece.len();
                    self.current.iter().for_each(|tap| tap.data_in_turn(&piece));
                    self.kept.iter().for_each(|(tap, _)| tap.data(&piece));
                }
                Ok(None) => {
                    self.ended = true;
                    let trailers = self.source.trailers();
                    let taps = self.current.iter().chain(self.kept.iter().map(|(tap, _)| tap));
                    taps.for_each(|tap| tap.end(trailers));
                }
                Err(error) => return Poll::Ready(Some(error)),
            }
        }
        self.source.poll_gone(cx).map(|()| None)
    }
}
