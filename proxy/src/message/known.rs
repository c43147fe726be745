//! The names of fields that the proxy itself acts on, told apart once when a head is read.

/// A field name the proxy acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Known {
    /// Any other name.
    Other,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    GrpcMessage,
    GrpcStatus,
    GrpcTimeout,
    Host,
    KeepAlive,
    OrcaLoad,
    ProxyConnection,
    Server,
    SetCookie,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    ForwardedClientCert,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Http2Settings,
    RequestId,
}

impl Known {
    /// Every known name, in lower case.
    #[cfg(test)]
    pub(crate) const NAMES: [(&'static [u8], Self); 26] = [
        (b"connection", Self::Connection),
        (b"content-length", Self::ContentLength),
        (b"content-type", Self::ContentType),
        (b"cookie", Self::Cookie),
        (b"date", Self::Date),
        (b"expect", Self::Expect),
        (b"grpc-message", Self::GrpcMessage),
        (b"grpc-status", Self::GrpcStatus),
        (b"grpc-timeout", Self::GrpcTimeout),
        (b"host", Self::Host),
        (b"keep-alive", Self::KeepAlive),
        (b"endpoint-load-metrics-bin", Self::OrcaLoad),
        (b"proxy-connection", Self::ProxyConnection),
        (b"server", Self::Server),
        (b"set-cookie", Self::SetCookie),
        (b"te", Self::Te),
        (b"trailer", Self::Trailer),
        (b"transfer-encoding", Self::TransferEncoding),
        (b"upgrade", Self::Upgrade),
        (b"via", Self::Via),
        (b"x-forwarded-client-cert", Self::ForwardedClientCert),
        (b"x-forwarded-for", Self::ForwardedFor),
        (b"x-forwarded-host", Self::ForwardedHost),
        (b"x-forwarded-proto", Self::ForwardedProto),
        (b"http2-settings", Self::Http2Settings),
        (b"x-request-id", Self::RequestId),
    ];

    /// What a name is, in whatever case. By length first: most names are told apart by it.
    pub(crate) fn of(name: &[u8]) -> Self {
        use Known as K;
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        let pick = |candidates: &[(&[u8], Self)]| {
            candidates.iter().find(|(known, _)| is(known)).map_or(K::Other, |(_, known)| *known)
        };
        match name.len() {
            2 => pick(&[(b"te", K::Te)]),
            3 => pick(&[(b"via", K::Via)]),
            4 => pick(&[(b"host", K::Host), (b"date", K::Date)]),
            6 => pick(&[(b"cookie", K::Cookie), (b"server", K::Server), (b"expect", K::Expect)]),
            7 => pick(&[(b"upgrade", K::Upgrade), (b"trailer", K::Trailer)]),
            10 => pick(&[
                (b"connection", K::Connection),
                (b"set-cookie", K::SetCookie),
                (b"keep-alive", K::KeepAlive),
            ]),
            11 => pick(&[(b"grpc-status", K::GrpcStatus)]),
            12 => pick(&[
                (b"content-type", K::ContentType),
                (b"x-request-id", K::RequestId),
                (b"grpc-timeout", K::GrpcTimeout),
                (b"grpc-message", K::GrpcMessage),
            ]),
            14 => pick(&[
                (b"content-length", K::ContentLength),
                (b"http2-settings", K::Http2Settings),
            ]),
            15 => pick(&[(b"x-forwarded-for", K::ForwardedFor)]),
            16 => pick(&[
                (b"proxy-connection", K::ProxyConnection),
                (b"x-forwarded-host", K::ForwardedHost),
            ]),
            17 => pick(&[
                (b"transfer-encoding", K::TransferEncoding),
                (b"x-forwarded-proto", K::ForwardedProto),
            ]),
            23 => pick(&[(b"x-forwarded-client-cert", K::ForwardedClientCert)]),
            25 => pick(&[(b"endpoint-load-metrics-bin", K::OrcaLoad)]),
            _ => K::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_in_every_case_and_no_other() {
        for (name, known) in Known::NAMES {
            assert_eq!(Known::of(name), known);
            assert_eq!(Known::of(&name.to_ascii_uppercase()), known);
            assert_eq!(Known::of(&name[1..]), Known::Other, "{}", String::from_utf8_lossy(name));
        }
    }
}
