//! EDNS cookies (RFC 7873), made so that any server with the same secret knows them (RFC 9018).
//!
//! A cookie is given to whoever sends one; none is ever required.

use std::net::IpAddr;

use siphasher::sip::SipHasher24;
use std::hash::Hasher as _;

/// Octets of a client's cookie (RFC 7873 §4.1).
const CLIENT: usize = 8;
/// Octets of a whole cookie of ours: the client's, then version, time and hash (RFC 9018 §4).
pub(crate) const LENGTH: usize = 24;

/// A cookie as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientCookie([u8; CLIENT]);

/// The secret that cookies are made with: new with each process, since none is ever required.
#[derive(Clone, Debug)]
pub(crate) struct Secret([u8; 16]);

impl ClientCookie {
    /// Reads the option's data: a client's part, alone or with a server's of 8 to 32 octets.
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let (client, server) = data.split_first_chunk::<CLIENT>()?;
        (server.is_empty() || (8..=32).contains(&server.len())).then_some(Self(*client))
    }
}

impl Secret {
    /// A secret nobody knows.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// The cookie for a client at a time, in seconds since 1970.
    pub(crate) fn cookie(&self, client: ClientCookie, address: IpAddr, now: u32) -> [u8; LENGTH] {
        let mut cookie = [0; LENGTH];
        cookie[..CLIENT].copy_from_slice(&client.0);
        // RFC 9018 §4.2, §4.3: version 1, three octets reserved.
        cookie[CLIENT] = 1;
        cookie[12..16].copy_from_slice(&now.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&cookie[..16]);
        match address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        cookie[16..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9018 appendix A.1.
    #[test]
    fn a_cookie_is_that_of_the_specification_for_its_secret_client_and_time() {
        let secret = Secret([
            0xe5, 0xe9, 0x73, 0xe5, 0xa6, 0xb2, 0xa4, 0x3f, 0x48, 0xe7, 0xdc, 0x84, 0x9e, 0x37,
            0xbf, 0xcf,
        ]);
        let client = [0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57];
        let address = "198.51.100.100".parse().expect("valid");
        let cookie = secret.cookie(ClientCookie(client), address, 1_559_731_985);
        let expected = [
            0x24, 0x64, 0xc4, 0xab, 0xcf, 0x10, 0xc9, 0x57, 0x01, 0x00, 0x00, 0x00, 0x5c, 0xf7,
            0x9f, 0x11, 0x1f, 0x81, 0x30, 0xc3, 0xee, 0xe2, 0x94, 0x80,
        ];
        assert_eq!(cookie, expected);
    }
}
