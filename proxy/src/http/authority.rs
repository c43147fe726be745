//! Whom a request is for. Owns what makes that ambiguous, and refuses it.

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Version, header};

/// The authority of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// As the client wrote it, for upstream.
    pub(super) host: HeaderValue,
    /// In lower case, for the route table; empty for an HTTP/1.0 request that names none.
    pub(super) lower: String,
}

/// Reads `:authority` or `Host`.
///
/// # Errors
/// The reason why the request is not valid: RFC 9112 §3.2 (exactly one Host in HTTP/1.1), RFC 9110
/// §4.2.4 (no user information), RFC 9113 §8.3.1 (Host and `:authority` must agree).
pub(super) fn parse(parts: &Parts) -> Result<Asked, &'static str> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one Host");
    }
    let target = parts.uri.authority();
    let host_text = match host {
        Some(value) => Some(value.to_str().map_err(|_| "Host is not text")?),
        None => None,
    };
    let text = match (parts.version, target, host_text) {
        (Version::HTTP_11, _, None) => return Err("no Host"),
        (Version::HTTP_2, Some(target), Some(host))
            if !target.as_str().eq_ignore_ascii_case(host) =>
        {
            return Err("Host and :authority differ");
        }
        // In HTTP/1.1 the authority of an absolute target replaces Host (RFC 9112 §3.2.2).
        (_, Some(target), _) => target.as_str(),
        (_, None, Some(host)) => host,
        (_, None, None) => "",
    };
    if text.is_empty() {
        return Ok(Asked { host: HeaderValue::from_static(""), lower: String::new() });
    }
    let authority: Authority = text.parse().map_err(|_| "Host is not an authority")?;
    if authority.as_str().contains('@') {
        return Err("user information in the authority");
    }
    let host = HeaderValue::from_str(text).map_err(|_| "Host is not a header value")?;
    Ok(Asked { host, lower: text.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn asked(version: Version, target: &str, hosts: &[&str]) -> Result<String, &'static str> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let (parts, ()) = request.body(()).expect("a valid request").into_parts();
        parse(&parts).map(|asked| asked.lower)
    }

    #[test]
    fn an_authority_is_read_or_refused() {
        let (v10, v11, v2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        for (version, target, hosts, expected) in [
            (v11, "/", &["Web.Shop:80"][..], Ok("web.shop:80")),
            (v11, "/", &[], Err("no Host")),
            (v11, "/", &[""], Ok("")),
            (v11, "/", &["a", "a"], Err("more than one Host")),
            (v11, "http://Target/", &["other"], Ok("target")),
            (v11, "http://target/", &[], Err("no Host")),
            (v11, "/", &["user@a"], Err("user information in the authority")),
            (v11, "/", &["a b"], Err("Host is not an authority")),
            (v10, "/", &[], Ok("")),
            (v10, "/", &["a"], Ok("a")),
            (v2, "http://A/", &[], Ok("a")),
            (v2, "http://a/", &["A"], Ok("a")),
            (v2, "http://a/", &["b"], Err("Host and :authority differ")),
            (v2, "/", &["b"], Ok("b")),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(asked(version, target, hosts), expected, "{version:?} {target} {hosts:?}");
        }
    }
}
