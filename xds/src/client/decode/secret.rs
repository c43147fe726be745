//! `Secret` -> [`Secret`]: a chain and a key that belong together, or authorities.

use portolan_model::traffic::{ResourceName, Secret};
use portolan_proto::envoy::core::DataSource;
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::{self, CertificateValidationContext, TlsCertificate};
use portolan_runtime::certificate::{self, InvalidPair, certified};

use super::{DecodeError, named, refuse, resource};

/// Decodes and checks a secret.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn decode(any: &Any) -> Result<(ResourceName, (ResourceName, Secret)), DecodeError> {
    let said: tls::Secret = resource(any)?;
    let name: ResourceName = said.name.as_str().into();
    let secret = match &said.r#type {
        Some(Type::TlsCertificate(said)) => pair(said),
        Some(Type::ValidationContext(said)) => authorities(said),
        Some(_) => Err("only tls_certificate and validation_context are supported".to_owned()),
        None => Err("type: missing".to_owned()),
    };
    let secret = secret.map_err(named(&said.name))?;
    Ok((name.clone(), (name, secret)))
}

fn pair(said: &TlsCertificate) -> Result<Secret, String> {
    let asked = [
        ("tls_certificate.pkcs12", said.pkcs12.is_some()),
        ("tls_certificate.password", said.password.is_some()),
        ("tls_certificate.private_key_provider", said.private_key_provider.is_some()),
    ];
    asked.into_iter().try_for_each(|(field, asked)| refuse(field, asked))?;
    let (of_chain, of_key) = ("tls_certificate.certificate_chain", "tls_certificate.private_key");
    let chain = inline(of_chain, said.certificate_chain.as_ref())?;
    let key = inline(of_key, said.private_key.as_ref())?;
    certified(chain, key).map_err(|invalid| match invalid {
        InvalidPair::NoChain => format!("{of_chain}: holds no certificate"),
        InvalidPair::Chain => format!("{of_chain}: is not PEM"),
        InvalidPair::Key => format!("{of_key}: holds no private key"),
        InvalidPair::Apart(reason) => format!("{of_key}: {reason}"),
    })?;
    let ocsp = said.ocsp_staple.as_ref();
    let ocsp = ocsp.map(|said| inline("tls_certificate.ocsp_staple", Some(said))).transpose()?;
    Ok(Secret::Certificate { chain: chain.into(), key: key.into(), ocsp: ocsp.map(Into::into) })
}

/// What else is asked of certificates than that they end in these authorities is refused: to pass it
/// over would let in who is not to come in.
fn authorities(said: &CertificateValidationContext) -> Result<Secret, String> {
    let rest = CertificateValidationContext { trusted_ca: None, ..said.clone() };
    if rest != CertificateValidationContext::default() {
        return Err("validation_context: only trusted_ca is supported".to_owned());
    }
    let field = "validation_context.trusted_ca";
    let pem = inline(field, said.trusted_ca.as_ref())?;
    certificate::authorities(pem).map_err(|reason| format!("{field}: {reason}"))?;
    Ok(Secret::Authorities(pem.into()))
}

pub(super) fn inline<'a>(field: &str, said: Option<&'a DataSource>) -> Result<&'a [u8], String> {
    match said.and_then(|said| said.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes()),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            Err(format!("{field}: only what is sent with it is supported"))
        }
        None => Err(format!("{field}: missing")),
    }
}
