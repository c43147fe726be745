//! Wire types: what is generated from our own .proto files, and the Envoy types of xDS under the
//! names used here. Holds no behaviour: what a message means is decided by whoever receives it.

pub mod demo;
#[cfg(feature = "envoy")]
pub mod envoy;
#[cfg(feature = "envoy")]
pub mod typed_struct;

/// `portolan.v1`: the plain API, and what Portolan adds to xDS.
#[expect(clippy::allow_attributes, reason = "generated code carries its own allow attributes")]
pub mod v1 {
    tonic::include_proto!("portolan.v1");
}

#[cfg(feature = "envoy")]
pub use envoy_types;

/// The descriptors of every .proto file of ours and of what they import, as an encoded
/// `google.protobuf.FileDescriptorSet`; for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/portolan_descriptors.bin"));
