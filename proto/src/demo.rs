//! The demo's own service (`proto/portolan/demo`).

/// `portolan.demo.v1`: the Echo service.
#[expect(clippy::allow_attributes, reason = "generated code carries its own allow attributes")]
pub mod v1 {
    tonic::include_proto!("portolan.demo.v1");
}
