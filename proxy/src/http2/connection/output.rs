//! What waits to be written: small things copied into one buffer, large data by reference
//! between them, so that all of it goes out with one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::super::frame::{HEAD, Head, Kind};

/// Data shorter than this is copied.
const COPIED: usize = 2048;
/// Capacity kept when all is written, and bytes written before the rest moves to the front.
const KEPT: usize = 16 << 10;
/// Capacity kept by an idle connection.
const IDLE: usize = 1 << 10;

#[derive(Debug, Default)]
pub(crate) struct Output {
    small: Vec<u8>,
    /// How much of `small` is written.
    at: usize,
    /// Data, each with how much of `small` goes before it.
    large: VecDeque<(usize, Bytes)>,
    large_len: usize,
}

impl Output {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.small.len() - self.at + self.large_len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to append.
    pub(in crate::http2) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    pub(super) fn frame(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        self.small.extend_from_slice(&Head::write(kind, flags, stream, payload.len()));
        self.small.extend_from_slice(payload);
    }

    pub(super) fn data(&mut self, flags: u8, stream: u32, data: Bytes) {
        if data.len() < COPIED {
            return self.frame(Kind::Data, flags, stream, &data);
        }
        self.small.extend_from_slice(&Head::write(Kind::Data, flags, stream, data.len()));
        self.large_len += data.len();
        self.large.push_back((self.small.len(), data));
    }

    /// Writes into the head, which begins at `start` of the buffer, how long the payload became.
    /// A payload longer than `max` is cut into CONTINUATION frames (RFC 9113 §6.10).
    pub(super) fn close_block(&mut self, start: usize, flags: u8, stream: u32, max: usize) {
        use super::super::frame::END_HEADERS;
        let length = self.small.len().saturating_sub(start + HEAD);
        let (first, rest) = match length > max {
            false => (Head::write(Kind::Headers, flags | END_HEADERS, stream, length), None),
            true => {
                let rest = self.small.split_off(start + HEAD + max);
                (Head::write(Kind::Headers, flags, stream, max), Some(rest))
            }
        };
        if let Some(place) = self.small.get_mut(start..start + HEAD) {
            place.copy_from_slice(&first);
        }
        let Some(rest) = rest else { return };
        let mut pieces = rest.chunks(max).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_some() { 0 } else { END_HEADERS };
            self.frame(Kind::Continuation, flags, stream, piece);
        }
    }

    /// Fills `slices` with what is next; how many there are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = self.at;
        let mut used = 0;
        let mut put = |bytes: &'a [u8]| {
            if let Some(slice) = slices.get_mut(used).filter(|_| !bytes.is_empty()) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
        };
        // One more than fits does no harm: it is not put.
        for (before, data) in self.large.iter().take(32) {
            put(self.small.get(at..*before).unwrap_or_default());
            put(data);
            at = *before;
        }
        if self.large.len() <= 32 {
            put(self.small.get(at..).unwrap_or_default());
        }
        used
    }

    /// The first `count` bytes are written.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let end = self.large.front().map_or(self.small.len(), |(before, _)| *before);
            let small = end.saturating_sub(self.at).min(count);
            self.at += small;
            count -= small;
            let Some((_, data)) = self.large.front_mut() else { break };
            let large = data.len().min(count);
            data.advance(large);
            count -= large;
            self.large_len -= large;
            if data.is_empty() {
                self.large.pop_front();
            }
        }
        if self.is_empty() {
            self.at = 0;
            self.small.clear();
            if self.small.capacity() > KEPT {
                self.small = Vec::new();
            }
        } else if self.at > KEPT && self.at > self.small.len() / 2 {
            self.small.drain(..self.at);
            self.large.iter_mut().for_each(|(before, _)| *before -= self.at);
            self.at = 0;
        }
    }

    /// Gives memory back, when nothing waits and the connection is idle.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.small.capacity() > IDLE {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_however_it_is_cut() {
        for step in [7, 131, 1000, 5000, usize::MAX] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            let mut written = Vec::new();
            for round in 0..200_u32 {
                let length = [0, 10, 2048, 5000][round as usize % 4];
                let data = vec![u8::try_from(round).expect("small"); length];
                expected.extend_from_slice(&Head::write(Kind::Data, 0, round, length));
                expected.extend_from_slice(&data);
                output.data(0, round, Bytes::from(data));
                take(&mut output, step, &mut written);
            }
            while !output.is_empty() {
                take(&mut output, step, &mut written);
            }
            assert!(written == expected, "{step}");
            assert_eq!((output.at, output.small.len(), output.large_len), (0, 0, 0));
        }
    }

    fn take(output: &mut Output, step: usize, written: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = output.slices(&mut slices);
        let mut left = step;
        for slice in &slices[..count] {
            let some = slice.len().min(left);
            written.extend_from_slice(&slice[..some]);
            left -= some;
        }
        let taken = step - left;
        output.advance(taken);
    }

    #[test]
    fn a_long_head_is_cut_into_continuations() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(&[0; HEAD]);
        output.buffer().extend_from_slice(&[7; 250]);
        output.close_block(0, 1, 3, 100);
        let out = output.buffer();
        let heads: Vec<_> = [0, 109, 218].map(|at| Head::parse(&out[at..]).expect("a head")).into();
        let got: Vec<_> = heads.iter().map(|head| (head.kind, head.flags, head.length)).collect();
        let expected =
            [(Kind::Headers, 1, 100), (Kind::Continuation, 0, 100), (Kind::Continuation, 4, 50)];
        assert_eq!(got, expected);
    }
}
