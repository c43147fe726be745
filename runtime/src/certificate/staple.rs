//! What the issuer of a certificate says of it (OCSP, RFC 6960), for clients that ask for it in their
//! handshake (RFC 6066 §8).

use std::time::SystemTime;

use der::Decode as _;
use rustls::pki_types::CertificateDer;
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest answer of an OCSP server, in octets: one takes some 500, and the chain of who signed it a few
/// thousand.
pub const MAX_STAPLE: usize = 32 * 1024;

/// When an answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staple {
    /// From then on.
    pub since: SystemTime,
    /// Until then; `None`: it does not say.
    pub until: Option<SystemTime>,
}

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStaple {
    /// It is longer than [`MAX_STAPLE`].
    #[error("longer than {MAX_STAPLE} octets")]
    Long,
    /// It is none.
    #[error("no OCSP response")]
    Malformed,
    /// The server has none to give.
    #[error("an OCSP response without an answer: {0}")]
    Unsuccessful(String),
    /// It is about so many certificates.
    #[error("an OCSP response about {0} certificates, not one")]
    Several(usize),
    /// It is about another certificate.
    #[error("an OCSP response about another certificate")]
    Other,
    /// The issuer has revoked it, or knows nothing of it.
    #[error("the certificate is not good: {0}")]
    Bad(&'static str),
}

impl Staple {
    /// Reads an answer, DER, about a certificate. Who signed it is for the client to look at, as is
    /// usual.
    ///
    /// # Errors
    /// [`InvalidStaple`].
    pub fn read(der: &[u8], certificate: &CertificateDer<'_>) -> Result<Self, InvalidStaple> {
        if der.len() > MAX_STAPLE {
            return Err(InvalidStaple::Long);
        }
        let malformed = |_| InvalidStaple::Malformed;
        let response = OcspResponse::from_der(der).map_err(malformed)?;
        if response.response_status != OcspResponseStatus::Successful {
            return Err(InvalidStaple::Unsuccessful(format!("{:?}", response.response_status)));
        }
        let octets = response.response_bytes.ok_or(InvalidStaple::Malformed)?.response;
        let basic = BasicOcspResponse::from_der(octets.as_bytes()).map_err(malformed)?;
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| InvalidStaple::Other)?;
        let serial = certificate.raw_serial();
        // Envoy takes none with several, and with it not the certificate either.
        let [answer] = &basic.tbs_response_data.responses[..] else {
            return Err(InvalidStaple::Several(basic.tbs_response_data.responses.len()));
        };
        if answer.cert_id.serial_number.as_bytes() != serial {
            return Err(InvalidStaple::Other);
        }
        match answer.cert_status {
            CertStatus::Good(_) => {}
            CertStatus::Revoked(_) => return Err(InvalidStaple::Bad("revoked")),
            CertStatus::Unknown(_) => return Err(InvalidStaple::Bad("unknown to its issuer")),
        }
        Ok(Self {
            since: answer.this_update.0.to_system_time(),
            until: answer.next_update.map(|time| time.0.to_system_time()),
        })
    }

    /// Whether it is good at a time.
    #[must_use]
    pub fn is_good_at(&self, now: SystemTime) -> bool {
        self.since <= now && self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_is_good_from_its_beginning_to_its_end() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let staple = |until: Option<u64>| Staple { since: at(100), until: until.map(at) };
        for (now, until, good) in [
            (99, Some(200), false),
            (100, Some(200), true),
            (199, Some(200), true),
            (200, Some(200), false),
            (99, None, false),
            (1_000_000, None, true),
        ] {
            assert_eq!(staple(until).is_good_at(at(now)), good, "{now} {until:?}");
        }
    }

    #[test]
    fn what_is_no_answer_is_named() {
        let certificate = CertificateDer::from(vec![0]);
        let read = |der: &[u8]| Staple::read(der, &certificate);
        assert_eq!(read(&[]), Err(InvalidStaple::Malformed));
        assert_eq!(read(&vec![0x30; MAX_STAPLE + 1]), Err(InvalidStaple::Long));
        // SEQUENCE { ENUMERATED tryLater(3) } (RFC 6960 §4.2.1).
        let later = InvalidStaple::Unsuccessful("TryLater".to_owned());
        assert_eq!(read(&[0x30, 3, 0x0a, 1, 3]), Err(later));
    }
}
