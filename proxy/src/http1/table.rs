//! Which bytes may stand where (RFC 9110 §5.5 and §5.6.2, RFC 9112 §3).

/// `tchar`: what names and methods are made of.
const TOKEN: u8 = 1;
/// What a field value may have: HTAB, SP, VCHAR, obs-text.
const VALUE: u8 = 2;
/// What a request target may have: no blank, no control, no fragment.
const TARGET: u8 = 4;

const TABLE: [u8; 256] = table();

const fn table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut class = 0;
        if byte.is_ascii_alphanumeric() || is_mark(byte) {
            class |= TOKEN;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= VALUE;
        }
        if byte > b' ' && byte != 0x7f && byte != b'#' {
            class |= TARGET;
        }
        table[byte as usize] = class;
        if byte == 255 {
            return table;
        }
        byte += 1;
    }
}

const fn is_mark(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

fn all(bytes: &[u8], class: u8) -> bool {
    // Without a branch per byte, so that it is done many bytes at a time.
    bytes.iter().fold(class, |all, byte| all & TABLE[*byte as usize]) == class
}

/// A token: at least one `tchar`.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// A field value without the blanks around it.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    all(bytes, VALUE)
}

/// A request target.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TARGET)
}

/// Takes spaces and tabs off both ends.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_allowed_where_the_rfc_has_them() {
        for (bytes, token, value, target) in [
            (&b"Content-Type"[..], true, true, true),
            (b"a b", false, true, false),
            (b"a:b", false, true, true),
            (b"a\tb", false, true, false),
            (b"a\rb", false, false, false),
            (b"a\0b", false, false, false),
            (b"\x7f", false, false, false),
            (b"/\xc3\xa9", false, true, true),
            (b"/a#b", false, true, false),
            (b"", false, true, false),
        ] {
            assert_eq!(
                (is_token(bytes), is_value(bytes), is_target(bytes)),
                (token, value, target),
                "{bytes:?}"
            );
        }
        assert_eq!(trim(b" \t a b\t"), b"a b");
    }
}
