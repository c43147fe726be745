//! `xds.type.v3.TypedStruct`, which the crate of Envoy's types leaves out: a message as JSON, for
//! types that its receiver may not have been built with (xDS protocol; gRFC A52). Refuses nothing.

/// A message by the URL of its type, and its fields as JSON.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    /// The type of the message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its fields.
    #[prost(message, optional, tag = "2")]
    pub value: Option<envoy_types::pb::google::protobuf::Struct>,
}

impl prost::Name for TypedStruct {
    const NAME: &'static str = "TypedStruct";
    const PACKAGE: &'static str = "xds.type.v3";

    fn full_name() -> String {
        "xds.type.v3.TypedStruct".into()
    }

    fn type_url() -> String {
        "type.googleapis.com/xds.type.v3.TypedStruct".into()
    }
}
