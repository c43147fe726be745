//! Names of methods: read, looked up, listed.

use std::io::{self, Write};

use prost_reflect::{MethodDescriptor, ServiceDescriptor};

use super::CallError;

/// `package.Service/Method`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MethodName<'a> {
    pub(super) service: &'a str,
    pub(super) method: &'a str,
}

impl<'a> MethodName<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, CallError> {
        let is_word =
            |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
        // With a leading slash it is the path as HTTP/2 carries it.
        match text.strip_prefix('/').unwrap_or(text).split_once('/') {
            Some((service, method))
                if !service.is_empty()
                    && !method.is_empty()
                    && is_word(service)
                    && is_word(method) =>
            {
                Ok(Self { service, method })
            }
            _ => Err(CallError::MethodSyntax { method: text.to_owned() }),
        }
    }

    pub(super) fn find_in(
        &self,
        service: &ServiceDescriptor,
    ) -> Result<MethodDescriptor, CallError> {
        service.methods().find(|method| method.name() == self.method).ok_or_else(|| {
            CallError::UnknownMethod {
                service: service.full_name().to_owned(),
                method: self.method.to_owned(),
                known: service.methods().map(|method| method.name().to_owned()).collect(),
            }
        })
    }
}

/// A line per method: `package.Service/Method(stream? Request) returns (stream? Reply)`.
pub(super) fn list(service: &ServiceDescriptor, out: &mut impl Write) -> Result<(), io::Error> {
    for method in service.methods() {
        let stream = |yes| if yes { "stream " } else { "" };
        writeln!(
            out,
            "{}/{}({}{}) returns ({}{})",
            service.full_name(),
            method.name(),
            stream(method.is_client_streaming()),
            method.input().full_name(),
            stream(method.is_server_streaming()),
            method.output().full_name(),
        )?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_named_by_service_and_method_with_a_slash_between() {
        let expected = MethodName { service: "a.b.C", method: "Do" };
        for text in ["a.b.C/Do", "/a.b.C/Do"] {
            assert_eq!(MethodName::parse(text).expect("valid"), expected);
        }
        for text in ["", "/", "a.b.C", "a.b.C/", "/Do", "a/b/c", "a b/C", "a.C/Do?x=1"] {
            let error = MethodName::parse(text).expect_err(text);
            assert!(matches!(error, CallError::MethodSyntax { .. }), "{error}");
        }
    }
}
