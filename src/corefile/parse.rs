//! The grammar: server blocks, directives and their blocks, snippets put in where they are
//! imported. Which directives there are is no concern of this file.

use std::collections::{BTreeMap, VecDeque};

use super::CorefileError;
use super::token::{Token, tokens};

/// A whole file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    /// In the order they stand in.
    pub(super) blocks: Vec<Block>,
    /// Imports of other files between the blocks.
    pub(super) imports: Vec<Directive>,
}

/// A server block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What it serves, with the line of each.
    pub(super) keys: Vec<(String, usize)>,
    /// What it does.
    pub(super) directives: Vec<Directive>,
}

/// A plugin of a server block, or a property of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// Line it starts on.
    pub(super) line: usize,
    /// Its first word.
    pub(super) name: String,
    /// The other words of its line.
    pub(super) args: Vec<String>,
    /// What stands in braces after it.
    pub(super) body: Vec<Directive>,
}

/// Where a note belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    /// Line of the file.
    pub(super) line: usize,
    /// The directive as written.
    pub(super) label: String,
}

struct Parser {
    tokens: VecDeque<Token>,
    snippets: BTreeMap<String, Vec<Token>>,
    imports_left: usize,
    last_line: usize,
}

/// Imports of snippets in one file: each adds no more than the file has, so this bounds them all.
const MAX_IMPORTS: usize = 1000;
/// Blocks within blocks; no plugin has more than two.
const MAX_DEPTH: usize = 16;

/// Parses a file.
///
/// # Errors
/// At the first place that is no Corefile.
pub(super) fn parse(text: &str) -> Result<File, CorefileError> {
    let tokens = tokens(text)?;
    let last_line = tokens.last().map_or(1, |t| t.line);
    let mut parser = Parser {
        tokens: tokens.into(),
        snippets: BTreeMap::new(),
        imports_left: MAX_IMPORTS,
        last_line,
    };
    let mut file = File { blocks: Vec::new(), imports: Vec::new() };
    while let Some(token) = parser.tokens.pop_front() {
        if token.text == "import" && token.first {
            file.imports.extend(parser.import(&token)?);
        } else {
            file.blocks.extend(parser.block(token)?);
        }
    }
    if file.blocks.is_empty() {
        return Err(CorefileError::new(last_line, "there is no server block"));
    }
    Ok(file)
}

/// The first variable of the environment that a word has, as `{$NAME}` or `{%NAME%}`.
pub(super) fn variable(text: &str) -> Option<&str> {
    [("{$", "}"), ("{%", "%}")].into_iter().find_map(|(open, close)| {
        let start = text.find(open)?;
        let name = start + open.len();
        let length = text.get(name..)?.find(close).filter(|length| *length > 0)?;
        text.get(start..name + length + close.len())
    })
}

impl Directive {
    /// This directive as a whole.
    pub(super) fn at(&self) -> At {
        At { line: self.line, label: self.label() }
    }

    /// One property of it.
    pub(super) fn at_property(&self, property: &Self) -> At {
        let label = format!("{} {{ {} }}", self.name, property.label());
        At { line: property.line, label }
    }

    /// The arguments as `match` takes them.
    pub(super) fn words(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    fn label(&self) -> String {
        let words: Vec<&str> =
            std::iter::once(self.name.as_str()).chain(self.args.iter().map(|a| &**a)).collect();
        words.join(" ")
    }
}

impl Parser {
    /// A server block from its first key on; a snippet is kept and gives none.
    fn block(&mut self, first: Token) -> Result<Option<Block>, CorefileError> {
        let line = first.line;
        let (keys, opened) = self.keys(first)?;
        if let [(key, _)] = keys.as_slice()
            && let Some(name) = key.strip_prefix('(').and_then(|k| k.strip_suffix(')'))
        {
            let opened = opened.ok_or_else(|| {
                CorefileError::new(line, format!("the snippet {name:?} has no block"))
            })?;
            let tokens = self.snippet(opened)?;
            if self.snippets.insert(name.to_owned(), tokens).is_some() {
                return Err(CorefileError::new(line, format!("the snippet {name:?} stands twice")));
            }
            return Ok(None);
        }
        let directives = self.directives(opened, 0)?;
        Ok(Some(Block { keys, directives }))
    }

    /// The keys of a server block, and the line of its brace: without one the rest of the file is
    /// the block.
    #[expect(clippy::type_complexity, reason = "keys with their lines, and one line more")]
    fn keys(
        &mut self,
        first: Token,
    ) -> Result<(Vec<(String, usize)>, Option<usize>), CorefileError> {
        let mut keys = Vec::new();
        let mut token = first;
        let mut comma = false;
        loop {
            let Token { text, line, .. } = token;
            match text.as_str() {
                "}" => return Err(CorefileError::new(line, "'}' without a '{' before it")),
                "{" if comma => {
                    return Err(CorefileError::new(line, "a server block has no key after ','"));
                }
                "{" if keys.is_empty() => {
                    return Err(CorefileError::new(line, "a server block has no key before '{'"));
                }
                "{" => return Ok((keys, Some(line))),
                _ => {}
            }
            if let Some(name) = variable(&text) {
                let reason = format!("the key {text:?} needs the value of {name}: write it in");
                return Err(CorefileError::new(line, reason));
            }
            comma = text.ends_with(',');
            keys.extend(text.split(',').filter(|k| !k.is_empty()).map(|k| (k.to_owned(), line)));
            match self.tokens.front() {
                None if comma => {
                    return Err(CorefileError::new(line, "a server block has no key after ','"));
                }
                Some(next) if comma || !next.first || next.text == "{" => {}
                _ => return Ok((keys, None)),
            }
            let Some(next) = self.tokens.pop_front() else { return Ok((keys, None)) };
            token = next;
        }
    }

    /// The tokens of a snippet whose brace is open.
    fn snippet(&mut self, opened: usize) -> Result<Vec<Token>, CorefileError> {
        let mut tokens = Vec::new();
        let mut depth = 1_usize;
        while let Some(token) = self.tokens.pop_front() {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(tokens);
            }
            tokens.push(token);
        }
        Err(not_closed(opened))
    }

    /// Directives up to the brace that closes the one opened on this line, or to the file's end.
    fn directives(
        &mut self,
        opened: Option<usize>,
        depth: usize,
    ) -> Result<Vec<Directive>, CorefileError> {
        if depth > MAX_DEPTH {
            let line = opened.unwrap_or(self.last_line);
            return Err(CorefileError::new(line, "too many blocks within blocks"));
        }
        let mut found = Vec::new();
        while let Some(token) = self.tokens.pop_front() {
            match token.text.as_str() {
                "}" if opened.is_some() => return Ok(found),
                "}" => return Err(CorefileError::new(token.line, "'}' without a '{' before it")),
                "{" => {
                    return Err(CorefileError::new(
                        token.line,
                        "'{' without a directive before it",
                    ));
                }
                "import" => found.extend(self.import(&token)?),
                _ => found.push(self.directive(token, depth)?),
            }
        }
        opened.map_or(Ok(found), |line| Err(not_closed(line)))
    }

    fn directive(&mut self, name: Token, depth: usize) -> Result<Directive, CorefileError> {
        let mut args = Vec::new();
        while let Some(token) =
            self.tokens.pop_front_if(|t| t.text == "{" || (!t.first && t.text != "}"))
        {
            if token.text == "{" {
                let body = self.directives(Some(token.line), depth + 1)?;
                return Ok(Directive { line: name.line, name: name.text, args, body });
            }
            args.push(token.text);
        }
        Ok(Directive { line: name.line, name: name.text, args, body: Vec::new() })
    }

    /// Puts a snippet in place of its import; an import of files is handed back.
    fn import(&mut self, import: &Token) -> Result<Option<Directive>, CorefileError> {
        let line = import.line;
        let same_line = |t: &mut Token| !t.first && t.text != "}";
        let Some(name) = self.tokens.pop_front_if(same_line) else {
            return Err(CorefileError::new(line, "import without a name"));
        };
        if self.tokens.pop_front_if(same_line).is_some() {
            return Err(CorefileError::new(line, "import takes one name"));
        }
        let Some(snippet) = self.snippets.get(&name.text) else {
            let args = vec![name.text];
            return Ok(Some(Directive { line, name: "import".to_owned(), args, body: Vec::new() }));
        };
        self.imports_left = self
            .imports_left
            .checked_sub(1)
            .ok_or_else(|| CorefileError::new(line, "snippets import each other without end"))?;
        for (i, token) in snippet.iter().enumerate().rev() {
            self.tokens.push_front(Token { first: token.first || i == 0, ..token.clone() });
        }
        Ok(None)
    }
}

fn not_closed(line: usize) -> CorefileError {
    CorefileError::new(line, "'{' is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in one line: `keys[directive args(body);]`.
    fn shape(file: &File) -> String {
        fn directives(list: &[Directive]) -> String {
            list.iter()
                .map(|d| {
                    let body = directives(&d.body);
                    let body = if body.is_empty() { body } else { format!("({body})") };
                    format!("{}@{}{body};", d.label(), d.line)
                })
                .collect()
        }
        let block = |b: &Block| {
            let keys: Vec<&str> = b.keys.iter().map(|(k, _)| k.as_str()).collect();
            format!("{}[{}]", keys.join("+"), directives(&b.directives))
        };
        file.blocks.iter().map(block).collect::<String>() + &directives(&file.imports)
    }

    #[test]
    fn keys_blocks_and_snippets_are_read_as_caddy_does() {
        for (text, expected) in [
            (". {\n}", ".[]"),
            (".:53 b, c,d {\nerrors\n}", ".:53+b+c+d[errors@2;]"),
            ("a,\nb\n{\nlog\n}", "a+b[log@4;]"),
            (".:53\nerrors\ncache 30\n", ".:53[errors@2;cache 30@3;]"),
            ("a", "a[]"),
            ("a {\n}\nb {\n}", "a[]b[]"),
            (". {\nlog . {\nclass error\n}\nerrors\n}", ".[log .@2(class error@3;);errors@5;]"),
            (". {\nlog\n{\nclass error\n}\n}", ".[log@2(class error@4;);]"),
            (". {\nhealth { lameduck 5s }\n}", ".[health@2(lameduck 5s@2;);]"),
            ("(s) {\nlog\n}\n. {\nerrors\nimport s\nloop\n}", ".[errors@5;log@2;loop@7;]"),
            ("(s) {\nclass all\n}\n. {\nlog {\nimport s\n}\n}", ".[log@5(class all@2;);]"),
            ("(s) {\na {\nlog\n}\n}\nimport s", "a[log@3;]"),
            (". {\nimport x/*.override\n}\nimport y/*", ".[import x/*.override@2;]import y/*@4;"),
            (". {\nlog \"a {\n}\"\n}", ".[log a {\n}@2;]"),
        ] {
            assert_eq!(shape(&parse(text).expect("valid")), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_corefile_is_refused_with_line_and_reason() {
        let deep = format!(". {{\n{}", "a {\n".repeat(40));
        for (text, expected) in [
            ("", "line 1: there is no server block"),
            ("# nothing\n\n", "line 1: there is no server block"),
            ("(s) {\nlog\n}", "line 3: there is no server block"),
            ("import other", "line 1: there is no server block"),
            (". {\nerrors\n", "line 1: '{' is not closed"),
            (". {\nlog {\nclass all\n}\n", "line 1: '{' is not closed"),
            (". {\nlog {\n", "line 2: '{' is not closed"),
            ("(s) {\nlog {\n}", "line 1: '{' is not closed"),
            (". {\n}\n}", "line 3: '}' without a '{' before it"),
            (".\nlog\n}", "line 3: '}' without a '{' before it"),
            ("{\nlog\n}", "line 1: a server block has no key before '{'"),
            ("a, {\nlog\n}", "line 1: a server block has no key after ','"),
            ("a,", "line 1: a server block has no key after ','"),
            (". {\n{\n}\n}", "line 2: '{' without a directive before it"),
            (". {\nlog \"a\n}", "line 2: a quote is not closed"),
            (". {\nimport\n}", "line 2: import without a name"),
            (". {\nimport a b\n}", "line 2: import takes one name"),
            ("(s)\nlog", "line 1: the snippet \"s\" has no block"),
            ("(s) {\n}\n(s) {\n}", "line 3: the snippet \"s\" stands twice"),
            (
                "(s) {\nimport s\n}\n. {\nimport s\n}",
                "line 2: snippets import each other without end",
            ),
            (
                "{$ZONE}:53 {\n}",
                "line 1: the key \"{$ZONE}:53\" needs the value of {$ZONE}: write it in",
            ),
            (deep.as_str(), "line 18: too many blocks within blocks"),
        ] {
            assert_eq!(parse(text).expect_err("wrong").to_string(), expected, "{text:?}");
        }
    }

    #[test]
    fn variables_are_found_in_both_spellings() {
        for (text, expected) in [
            ("a", None),
            ("{$}", None),
            ("{%%}", None),
            ("{$A", None),
            ("x{$A}y{$B}", Some("{$A}")),
            ("{%A%}", Some("{%A%}")),
            ("{1}.{common}", None),
        ] {
            assert_eq!(variable(text), expected, "{text}");
        }
    }
}
