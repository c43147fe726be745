//! As much of protobuf's wire format as is read here: load reports, answers to probes and sessions. Bounded, without recursion: a field is
//! a number or a piece of the message that was given.

/// A field's value; groups do not exist in proto3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

/// Bytes that are no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The next field's number and value; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.try_into().map_err(|_| Malformed)?),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(Malformed),
        };
        if tag >> 3 == 0 { Err(Malformed) } else { Ok(Some((tag >> 3, value))) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// At most ten bytes, of which the last holds one bit.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.take(1)?.first().ok_or(Malformed)?;
            if shift == 63 && byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, and the first field of them.
    type Case<'a> = (&'a [u8], Result<Option<(u64, Value<'a>)>, Malformed>);

    #[test]
    fn fields_are_read_by_their_wire_type() {
        let ten = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        #[rustfmt::skip]
        let cases: [Case<'_>; 11] = [
            (&[], Ok(None)),
            (&[0x08, 0x96, 0x01], Ok(Some((1, Value::Varint(150))))),
            (&ten, Ok(Some((1, Value::Varint(u64::MAX))))),
            (&[0x11, 1, 2, 3, 4, 5, 6, 7, 8], Ok(Some((2, Value::Fixed64([1, 2, 3, 4, 5, 6, 7, 8]))))),
            (&[0x42, 2, 7, 8], Ok(Some((8, Value::Bytes(&[7, 8]))))),
            (&[0x1d, 1, 2, 3, 4], Ok(Some((3, Value::Fixed32)))),
            (&[0x42, 3, 7, 8], Err(Malformed)),
            (&[0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Err(Malformed)),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], Err(Malformed)),
            (&[0x0b], Err(Malformed)),
            (&[0x00, 0x01], Err(Malformed)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Fields::of(bytes).next(), expected, "{bytes:?}");
        }
    }
}
