//! Metadata that the caller sends along, checked before anything goes out.

use tonic::metadata::{
    AsciiMetadataKey, AsciiMetadataValue, BinaryMetadataKey, BinaryMetadataValue, MetadataMap,
};

use super::{CallError, MAX_METADATA};

/// Reads name and value pairs; a name may come more than once.
pub(super) fn parse(entries: &[(String, String)]) -> Result<MetadataMap, CallError> {
    CallError::bound("metadata entries", entries.len(), MAX_METADATA)?;
    let mut map = MetadataMap::new();
    for (name, value) in entries {
        append(&mut map, &name.to_ascii_lowercase(), value)
            .map_err(|reason| CallError::Metadata { name: name.clone(), reason })?;
    }
    Ok(map)
}

fn append(map: &mut MetadataMap, name: &str, value: &str) -> Result<(), String> {
    // gRPC over HTTP/2, "Requests": these names are the protocol's own.
    if name.starts_with("grpc-") || matches!(name, "te" | "content-type" | "user-agent") {
        return Err("reserved for gRPC itself".to_owned());
    }
    if name.ends_with("-bin") {
        let name = BinaryMetadataKey::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        map.append_bin(name, BinaryMetadataValue::from_bytes(value.as_bytes()));
    } else {
        let name = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        let value = AsciiMetadataValue::try_from(value).map_err(|e| e.to_string())?;
        map.append(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_belong_to_the_protocol_or_are_none_are_refused() {
        for (name, value) in [
            ("grpc-timeout", "1S"),
            ("TE", "trailers"),
            ("content-type", "text/plain"),
            ("with space", "x"),
            ("", "x"),
            ("x", "line\nbreak"),
        ] {
            let error = parse(&[(name.to_owned(), value.to_owned())]).expect_err(name);
            assert!(error.to_string().starts_with(&format!("metadata {name:?}: ")), "{error}");
        }
    }

    #[test]
    fn names_are_lowered_and_may_repeat_and_bytes_are_kept() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let map = parse(&[pair("X-Trace", "a"), pair("x-trace", "b"), pair("key-bin", "ü")])
            .expect("valid");
        assert_eq!(map.get_all("x-trace").iter().count(), 2);
        let bytes = map.get_bin("key-bin").expect("there").to_bytes().expect("base64");
        assert_eq!(&*bytes, "ü".as_bytes());
    }
}
