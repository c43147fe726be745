//! Numbers of the response codes we give and are given (RFC 1035 §4.1.1).

pub(crate) const NO_ERROR: u8 = 0;
pub(crate) const FORM_ERR: u8 = 1;
pub(crate) const SERV_FAIL: u8 = 2;
pub(crate) const NX_DOMAIN: u8 = 3;
pub(crate) const NOT_IMP: u8 = 4;
pub(crate) const REFUSED: u8 = 5;
