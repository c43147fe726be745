//! Cuts a Corefile into words: quotes, comments and line ends, and nothing of what words mean.

use super::CorefileError;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Without its quotes.
    pub(super) text: String,
    /// Line it starts on, from 1.
    pub(super) line: usize,
    /// Whether it is the first of its line.
    pub(super) first: bool,
}

/// The words of the text. Inside quotes everything stands for itself, line ends as well, except
/// `\"`; a quote within a word is part of it, a `#` starts a comment anywhere.
///
/// # Errors
/// When a quote is not closed.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, CorefileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chars = text.chars().peekable();
    let (mut found, mut line, mut first) = (Vec::new(), 1, true);
    while let Some(c) = chars.next() {
        match c {
            '\n' => (line, first) = (line + 1, true),
            _ if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let (text, breaks) = quoted(&mut chars)
                    .ok_or_else(|| CorefileError::new(line, "a quote is not closed"))?;
                found.push(Token { text, line, first });
                (line, first) = (line + breaks, false);
            }
            _ => {
                let mut text = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != '#') {
                    text.push(c);
                }
                found.push(Token { text, line, first });
                first = false;
            }
        }
    }
    Ok(found)
}

/// The rest of a quoted word and how many line ends it has; `None` when the text ends before it.
fn quoted(chars: &mut impl Iterator<Item = char>) -> Option<(String, usize)> {
    let (mut text, mut breaks) = (String::new(), 0);
    let mut escaped = false;
    loop {
        let c = chars.next()?;
        match (c, escaped) {
            ('\\', false) => {
                escaped = true;
                continue;
            }
            ('"', false) => return Some((text, breaks)),
            ('"', true) | (_, false) => {}
            (_, true) => text.push('\\'),
        }
        if c == '\n' {
            breaks += 1;
        }
        text.push(c);
        escaped = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_spaces_and_comments_and_quotes_keep_them_together() {
        type Words = &'static [(&'static str, usize, bool)];
        let cases: [(&str, Words); 7] = [
            ("a b\r\n c", &[("a", 1, true), ("b", 1, false), ("c", 2, true)]),
            ("a#b c\nd", &[("a", 1, true), ("d", 2, true)]),
            ("# a \" b\nc", &[("c", 2, true)]),
            ("a \"b # c\" d", &[("a", 1, true), ("b # c", 1, false), ("d", 1, false)]),
            (r#""a\"b\c" d"e"#, &[("a\"b\\c", 1, true), ("d\"e", 1, false)]),
            ("\"a\nb\" c\nd", &[("a\nb", 1, true), ("c", 2, false), ("d", 3, true)]),
            ("\u{feff}a{ \"\"", &[("a{", 1, true), ("", 1, false)]),
        ];
        for (text, expected) in cases {
            let found = tokens(text).expect("valid");
            let found: Vec<_> = found.iter().map(|t| (t.text.as_str(), t.line, t.first)).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn a_quote_that_is_not_closed_is_named_by_the_line_it_starts_on() {
        for (text, line) in [("\"", 1), ("a\nb \"c\nd\n", 2), ("a \"b\\\"", 1)] {
            let error = tokens(text).expect_err("wrong");
            assert_eq!(error, CorefileError::new(line, "a quote is not closed"), "{text:?}");
        }
    }
}
