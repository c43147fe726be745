//! EDNS(0) on the fast path: reading a plain OPT record and writing ours (RFC 6891, RFC 8914).
//!
//! Every option a client may send is ignorable (RFC 6891 §6.1.2) and is only checked for form.
//! Other versions and anything malformed are left to the slow path.

/// Type of the OPT record.
pub(crate) const OPT: u16 = 41;
/// Code of the extended-error option (RFC 8914 §2).
pub(crate) const EDE: u16 = 15;
/// Extended error "Not Ready" (RFC 8914 §4.15).
pub(crate) const NOT_READY: u16 = 14;
/// Extended error "Not Authoritative" (RFC 8914 §4.21).
pub(crate) const NOT_AUTHORITATIVE: u16 = 20;
/// Octets of our OPT record without an option.
pub(crate) const OPT_MIN: usize = 11;
/// Octets of our OPT record with an extended error.
pub(crate) const OPT_MAX: usize = 17;

/// What a client's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientOpt {
    /// The UDP payload it can take, in octets.
    pub(crate) payload: u16,
    /// The DO bit, to be copied to the answer (RFC 3225 §3).
    pub(crate) dnssec_ok: bool,
}

/// Reads an OPT record that makes up all of `bytes`; `None` when it is not plain.
pub(crate) fn parse(bytes: &[u8]) -> Option<ClientOpt> {
    let (head, mut options) = bytes.split_first_chunk::<OPT_MIN>()?;
    let [root, t1, t2, p1, p2, _rcode, version, f1, _f2, l1, l2] = *head;
    let length = usize::from(u16::from_be_bytes([l1, l2]));
    if root != 0 || u16::from_be_bytes([t1, t2]) != OPT || version != 0 || options.len() != length {
        return None;
    }
    while !options.is_empty() {
        let ([_, _, l1, l2], rest) = options.split_first_chunk::<4>()?;
        options = rest.get(usize::from(u16::from_be_bytes([*l1, *l2]))..)?;
    }
    Some(ClientOpt { payload: u16::from_be_bytes([p1, p2]), dnssec_ok: f1 & 0x80 != 0 })
}

/// Our OPT record, and its length in octets.
pub(crate) fn build(payload: u16, dnssec_ok: bool, error: Option<u16>) -> ([u8; OPT_MAX], usize) {
    let [p1, p2] = payload.to_be_bytes();
    let [t1, t2] = OPT.to_be_bytes();
    let [o1, o2] = EDE.to_be_bytes();
    let [e1, e2] = error.unwrap_or(0).to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    let (options, length) = if error.is_some() { (6, OPT_MAX) } else { (0, OPT_MIN) };
    ([0, t1, t2, p1, p2, 0, 0, flags, 0, 0, options, o1, o2, 0, 2, e1, e2], length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_opt_is_read() {
        let plain = [0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0];
        let read = Some(ClientOpt { payload: 4096, dnssec_ok: true });
        assert_eq!(parse(&plain), read);
        let with_cookie = [&plain[..9], &[0, 6, 0, 10, 0, 2, 7, 7]].concat();
        assert_eq!(parse(&with_cookie), read);
        let cut_option = [&plain[..9], &[0, 6, 0, 10, 0, 3, 7, 7]].concat();
        assert_eq!(parse(&cut_option), None);
        let mut version = plain;
        version[6] = 1;
        assert_eq!(parse(&version), None);
        let mut owner = plain;
        owner[0] = 1;
        assert_eq!(parse(&owner), None);
        assert_eq!(parse(&[&plain[..], &[0]].concat()), None);
        assert_eq!(parse(&plain[..10]), None);
    }
}
