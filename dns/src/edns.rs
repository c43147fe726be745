//! EDNS(0): reading a client's OPT record and writing ours, on both paths (RFC 6891), with
//! extended errors (RFC 8914), name server id (RFC 5001) and cookies (RFC 7873).
//!
//! Every other option a client may send is ignorable (RFC 6891 §6.1.2) and is only checked for
//! form. Other versions and anything malformed are left to the slow path.

use crate::cookie::{self, ClientCookie};

/// Type of the OPT record.
pub(crate) const OPT: u16 = 41;
/// Code of the option with the server's id (RFC 5001 §2.3).
const NSID: u16 = 3;
/// Code of the cookie option (RFC 7873 §4).
const COOKIE: u16 = 10;
/// Code of the extended-error option (RFC 8914 §2).
pub(crate) const EDE: u16 = 15;
/// Octets of an OPT record without an option.
pub(crate) const OPT_MIN: usize = 11;
/// Octets of an option before its data.
const OPTION_HEAD: usize = 4;
/// Longest text that goes with an extended error, in octets: answers stay small.
pub(crate) const TEXT_MAX: usize = 120;

/// Extended errors (RFC 8914 §4, §5.2).
pub(crate) mod ede {
    /// Some reason that the text names.
    pub(crate) const OTHER: u16 = 0;
    /// An answer past its time, given because no upstream answers.
    pub(crate) const STALE_ANSWER: u16 = 3;
    /// The server has not seen a snapshot yet.
    pub(crate) const NOT_READY: u16 = 14;
    /// The client may not ask this.
    pub(crate) const PROHIBITED: u16 = 18;
    /// A negative answer past its time.
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    /// The name is in none of our zones, and nothing is forwarded.
    pub(crate) const NOT_AUTHORITATIVE: u16 = 20;
    /// No upstream could be reached.
    pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
}

/// What a client's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientOpt {
    /// The UDP payload it can take, in octets.
    pub(crate) payload: u16,
    /// The DO bit, to be copied to the answer (RFC 3225 §3).
    pub(crate) dnssec_ok: bool,
    /// It asks for the server's id.
    pub(crate) nsid: bool,
    /// Its cookie, with the one it has of us, if any.
    pub(crate) cookie: Option<ClientCookie>,
}

/// What our OPT record says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplyOpt<'a> {
    /// The UDP payload we can take, in octets.
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
    /// The high eight bits of the response code (RFC 6891 §6.1.3).
    pub(crate) extended_code: u8,
    pub(crate) nsid: Option<&'a [u8]>,
    pub(crate) cookie: Option<[u8; cookie::LENGTH]>,
}

/// Why an answer is what it is: a code of [`ede`] and words, which may be none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) code: u16,
    pub(crate) text: String,
}

impl Reason {
    /// A code that speaks for itself.
    pub(crate) fn of(code: u16) -> Self {
        Self { code, text: String::new() }
    }

    /// A code with words, cut to a bound.
    pub(crate) fn with(code: u16, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > TEXT_MAX {
            let cut = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(cut.unwrap_or(0));
        }
        Self { code, text }
    }

    /// Octets of its option.
    pub(crate) fn length(&self) -> usize {
        OPTION_HEAD + 2 + self.text.len()
    }
}

/// Reads an OPT record that makes up all of `bytes`; `None` when it is not plain.
pub(crate) fn parse(bytes: &[u8]) -> Option<ClientOpt> {
    let (head, mut options) = bytes.split_first_chunk::<OPT_MIN>()?;
    let [root, t1, t2, p1, p2, _rcode, version, f1, _f2, l1, l2] = *head;
    let length = usize::from(u16::from_be_bytes([l1, l2]));
    if root != 0 || u16::from_be_bytes([t1, t2]) != OPT || version != 0 || options.len() != length {
        return None;
    }
    let payload = u16::from_be_bytes([p1, p2]);
    let mut opt = ClientOpt { payload, dnssec_ok: f1 & 0x80 != 0, nsid: false, cookie: None };
    while !options.is_empty() {
        let ([c1, c2, l1, l2], rest) = options.split_first_chunk::<OPTION_HEAD>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l1, *l2])))?;
        options = rest;
        match u16::from_be_bytes([*c1, *c2]) {
            NSID => opt.nsid = true,
            // RFC 7873 §5.2.2: a cookie of another length is a malformed message.
            COOKIE => opt.cookie = Some(ClientCookie::parse(data)?),
            _ => {}
        }
    }
    Some(opt)
}

impl ReplyOpt<'_> {
    /// Octets of the record without an extended error.
    pub(crate) fn length(&self) -> usize {
        let nsid = self.nsid.map_or(0, |id| OPTION_HEAD + id.len());
        let cookie = self.cookie.map_or(0, |cookie| OPTION_HEAD + cookie.len());
        OPT_MIN + nsid + cookie
    }

    /// Writes the record to the start of `out`, with the reason when it fits as well; its length,
    /// or `None` when not even the rest fits.
    pub(crate) fn write(&self, out: &mut [u8], reason: Option<&Reason>) -> Option<usize> {
        let reason = reason.filter(|r| self.length() + r.length() <= out.len());
        let length = self.length() + reason.map_or(0, Reason::length);
        let options = u16::try_from(length - OPT_MIN).ok()?;
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        let [t1, t2] = OPT.to_be_bytes();
        let [p1, p2] = self.payload.to_be_bytes();
        let [l1, l2] = options.to_be_bytes();
        let head = [0, t1, t2, p1, p2, self.extended_code, 0, flags, 0, l1, l2];
        let mut rest = out.get_mut(..length)?;
        let mut put = |bytes: &[u8]| {
            let (start, left) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            start.copy_from_slice(bytes);
            rest = left;
        };
        put(&head);
        if let Some(id) = self.nsid {
            put(&option_head(NSID, id.len()));
            put(id);
        }
        if let Some(cookie) = &self.cookie {
            put(&option_head(COOKIE, cookie.len()));
            put(cookie);
        }
        if let Some(reason) = reason {
            put(&option_head(EDE, 2 + reason.text.len()));
            put(&reason.code.to_be_bytes());
            put(reason.text.as_bytes());
        }
        Some(length)
    }
}

fn option_head(code: u16, length: usize) -> [u8; OPTION_HEAD] {
    let [c1, c2] = code.to_be_bytes();
    let [l1, l2] = u16::try_from(length).expect("an option of ours is short").to_be_bytes();
    [c1, c2, l1, l2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 11] = [0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0];

    fn with_options(options: &[u8]) -> Vec<u8> {
        let length = u8::try_from(options.len()).expect("short");
        [&PLAIN[..10], &[length], options].concat()
    }

    #[test]
    fn only_a_plain_opt_is_read() {
        let read = ClientOpt { payload: 4096, dnssec_ok: true, nsid: false, cookie: None };
        assert_eq!(parse(&PLAIN), Some(read));
        assert_eq!(parse(&with_options(&[0, 8, 0, 2, 7, 7])), Some(read), "an unknown option");
        assert_eq!(parse(&with_options(&[0, 8, 0, 3, 7, 7])), None, "an option cut short");
        let nsid = parse(&with_options(&[0, 3, 0, 0]));
        assert_eq!(nsid, Some(ClientOpt { nsid: true, ..read }));
        let mut version = PLAIN;
        version[6] = 1;
        assert_eq!(parse(&version), None);
        let mut owner = PLAIN;
        owner[0] = 1;
        assert_eq!(parse(&owner), None);
        assert_eq!(parse(&[&PLAIN[..], &[0]].concat()), None);
        assert_eq!(parse(&PLAIN[..10]), None);
    }

    #[test]
    fn a_cookie_of_a_length_that_none_has_is_malformed() {
        for (length, good) in
            [(8, true), (7, false), (15, false), (16, true), (40, true), (41, false)]
        {
            let option = [&[0, 10, 0, length][..], &vec![7; usize::from(length)]].concat();
            assert_eq!(parse(&with_options(&option)).is_some(), good, "{length}");
        }
    }

    #[test]
    fn what_is_written_is_as_long_as_said_and_the_reason_goes_first_when_there_is_no_room() {
        let opt = ReplyOpt {
            payload: 1232,
            nsid: Some(b"me"),
            cookie: Some([7; cookie::LENGTH]),
            ..ReplyOpt::default()
        };
        let reason = Reason::with(ede::OTHER, "why");
        let whole = opt.length() + reason.length();
        let mut out = vec![0; whole];
        assert_eq!(opt.write(&mut out, Some(&reason)), Some(whole));
        assert!(out.ends_with(b"why"));
        assert_eq!(opt.write(&mut out[..whole - 1], Some(&reason)), Some(opt.length()));
        assert_eq!(opt.write(&mut out[..opt.length() - 1], None), None);
        assert_eq!(Reason::with(0, "ä".repeat(100)).text.len(), TEXT_MAX);
    }
}
