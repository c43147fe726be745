//! What a request says of the endpoint that had it. Owns which answers count as failures, and of
//! what sort; refuses to know what follows from them.

/// How a request ended, as far as it says something of the endpoint. What the client did (it went
/// away, it sent nonsense) is not reported at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer below 500, or a gRPC status that blames the client.
    Success,
    /// An answer of 500 or above that is no gateway error.
    ServerError,
    /// An answer of 502, 503 or 504.
    GatewayError,
    /// The proxy saw the failure itself: no connection, no answer in time, a reset.
    LocalError,
}

impl Outcome {
    /// By the status of an HTTP answer.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// By the `grpc-status` of a gRPC answer; a value no code has is a server error. The HTTP status
    /// each stands for is that of Envoy's `grpcToHttpStatus`.
    pub(crate) fn of_grpc(code: u32) -> Self {
        Self::of_status(match code {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            // UNKNOWN, INTERNAL, DATA_LOSS, and what there is not.
            _ => 500,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{GatewayError, ServerError, Success};
    use super::*;

    #[test]
    fn statuses_count_as_envoy_counts_them() {
        let cases = [
            (100, Success),
            (200, Success),
            (404, Success),
            (499, Success),
            (500, ServerError),
            (501, ServerError),
            (502, GatewayError),
            (503, GatewayError),
            (504, GatewayError),
            (505, ServerError),
            (599, ServerError),
        ];
        for (status, expected) in cases {
            assert_eq!(Outcome::of_status(status), expected, "{status}");
        }
    }

    #[test]
    fn grpc_codes_count_as_the_statuses_they_stand_for() {
        let cases = [
            ("OK", 0, Success),
            ("CANCELLED", 1, Success),
            ("UNKNOWN", 2, ServerError),
            ("INVALID_ARGUMENT", 3, Success),
            ("DEADLINE_EXCEEDED", 4, GatewayError),
            ("NOT_FOUND", 5, Success),
            ("ALREADY_EXISTS", 6, Success),
            ("PERMISSION_DENIED", 7, Success),
            ("RESOURCE_EXHAUSTED", 8, Success),
            ("FAILED_PRECONDITION", 9, Success),
            ("ABORTED", 10, Success),
            ("OUT_OF_RANGE", 11, Success),
            ("UNIMPLEMENTED", 12, ServerError),
            ("INTERNAL", 13, ServerError),
            ("UNAVAILABLE", 14, GatewayError),
            ("DATA_LOSS", 15, ServerError),
            ("UNAUTHENTICATED", 16, Success),
            ("no code", 17, ServerError),
            ("no code", u32::MAX, ServerError),
        ];
        for (name, code, expected) in cases {
            assert_eq!(Outcome::of_grpc(code), expected, "{name}");
        }
    }
}
